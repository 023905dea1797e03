// The daemon's one server: /metrics for Prometheus, a page for people on /, and what the page draws
// on /state.json. Asks the daemon and nothing else. Its threads end with it, which is to be before
// the daemon does.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "profiler/daemon.h"

namespace hotset {

struct HttpOptions {
  std::string address = "127.0.0.1";
  int port = 9477;  // 0: any that is free
  std::string key;  // every request must bring it ("Authorization: Bearer KEY", or ?key=KEY)
};

class HttpServer {
 public:
  // Listens when it returns. Throws Error: the port is taken; an address that others can reach, and
  // no key.
  HttpServer(Daemon& daemon, const HttpOptions& options);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;

  int port() const { return port_; }

 private:
  struct Server;
  std::unique_ptr<Server> server_;
  int port_ = 0;
  std::jthread thread_;
};

}  // namespace hotset
