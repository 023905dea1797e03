#include "profiler/http_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <httplib.h>
#include <sys/socket.h>

#include "kernels/check.h"
#include "profiler/page.h"

namespace hotset {
namespace {

// A name that only begins like an address may be anybody's: 127.0.0.1.example.org.
bool is_loopback(const std::string& address) {
  in_addr ip = {};
  const bool is_ipv4 = inet_pton(AF_INET, address.c_str(), &ip) == 1;
  return address == "localhost" || address == "::1" || (is_ipv4 && ntohl(ip.s_addr) >> 24 == 127);
}

// Takes as long whether they agree early or late.
bool is_same(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i % b.size()]);
  }
  return difference == 0;
}

bool has_key(const httplib::Request& request, const std::string& key) {
  const std::string header = request.get_header_value("Authorization");
  if (header.starts_with("Bearer ")) return is_same(header.substr(7), key);
  return is_same(request.get_param_value("key"), key);
}

// Without a key, a page of somebody else's whose name was made to resolve to this machine must not
// read ours: its requests name its own host.
bool names_this_machine(const httplib::Request& request) {
  std::string host = request.get_header_value("Host");
  const size_t colon = host.rfind(':');
  if (colon != std::string::npos && host.find(']', colon) == std::string::npos) {
    host.resize(colon);
  }
  if (host == "[::1]") host = "::1";
  return is_loopback(host);
}

}  // namespace

struct HttpServer::Server : httplib::Server {};

HttpServer::HttpServer(Daemon& daemon, const HttpOptions& options)
    : server_(std::make_unique<Server>()) {
  if (!is_loopback(options.address) && options.key.empty()) {
    throw Error(fmt::format(
        "daemon.address: {} can be reached from elsewhere; set daemon.key, or use 127.0.0.1",
        options.address));
  }
  Server& server = *server_;
  constexpr int kThreads = 4, kSeconds = 5;
  constexpr size_t kRequestBytes = 1 << 16;
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.set_read_timeout(kSeconds);
  server.set_write_timeout(kSeconds);
  server.set_keep_alive_timeout(kSeconds);
  server.set_payload_max_length(kRequestBytes);
  // The library would share the port with other daemons of this user (SO_REUSEPORT), and who
  // scrapes it would hear now this one's counts and now that one's.
  server.set_socket_options([](int socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server.set_default_headers({{"X-Content-Type-Options", "nosniff"},
                              {"Cache-Control", "no-store"},
                              {"Content-Security-Policy",
                               "default-src 'none'; script-src 'self'; style-src 'self'; "
                               "connect-src 'self'; frame-ancestors 'none'"}});
  server.set_pre_routing_handler([options](const auto& request, auto& response) {
    // The page itself is no secret; what it draws is.
    const bool is_static =
        request.path == "/page.js" || request.path == "/chart.js" || request.path == "/page.css";
    const bool is_allowed = options.key.empty() ? names_this_machine(request)
                                                : is_static || has_key(request, options.key);
    if (is_allowed) return httplib::Server::HandlerResponse::Unhandled;
    response.status = options.key.empty() ? 403 : 401;
    response.set_content("refused\n", "text/plain");
    return httplib::Server::HandlerResponse::Handled;
  });
  server.Get("/metrics", [&daemon](const auto&, auto& response) {
    response.set_content(daemon.metrics(), "text/plain; version=0.0.4; charset=utf-8");
  });
  server.Get("/state.json", [&daemon](const auto&, auto& response) {
    response.set_content(daemon.state(), "application/json");
  });
  server.Get("/", [](const auto&, auto& response) {
    response.set_content(kPageHtml, "text/html; charset=utf-8");
  });
  server.Get("/chart.js", [](const auto&, auto& response) {
    response.set_content(kPageCharts, "text/javascript; charset=utf-8");
  });
  server.Get("/page.js", [](const auto&, auto& response) {
    response.set_content(kPageScript, "text/javascript; charset=utf-8");
  });
  server.Get("/page.css", [](const auto&, auto& response) {
    response.set_content(kPageStyle, "text/css; charset=utf-8");
  });
  if (options.port == 0) {
    port_ = server.bind_to_any_port(options.address);
  } else {
    port_ = server.bind_to_port(options.address, options.port) ? options.port : -1;
  }
  if (port_ < 0) {
    throw Error(fmt::format(
        "{}:{} cannot be listened on: is another daemon running? daemon.port names another port",
        options.address, options.port));
  }
  thread_ = std::jthread([this] { server_->listen_after_bind(); });
  // stop() does nothing before that.
  while (!server.is_running()) std::this_thread::yield();
}

HttpServer::~HttpServer() {
  server_->stop();
}

}  // namespace hotset
