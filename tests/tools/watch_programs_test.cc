// The watchers with the programs that they are made for. Each test names the package that it is
// skipped without.
#include <httplib.h>

#include <mutex>
#include <string>
#include <thread>

#include "tests/tools/watch.h"

namespace hotset {
namespace {

using testing::HasSubstr;

bool has_program(const std::string& name) {
  return std::system(("command -v " + name + " > /dev/null 2>&1").c_str()) == 0;
}

class WatchProgramsTest : public WatchTest {
 protected:
  int shell(const std::string& command) const {
    return WEXITSTATUS(std::system(("cd " + folder_.string() + " && " + command).c_str()));
  }
  std::string output(const std::string& command) const {
    shell(command + " > output 2>&1");
    return content(path("output"));
  }
  std::string url(const std::string& name) const {
    return "http://127.0.0.1:" + std::to_string(port(name));
  }
};

// A page that shows another one, of the same origin, in a frame of 360 pixels, and says in its body
// what became of it: a window is never narrower than 500 pixels; a frame is.
std::string narrow_frame(const std::string& of) {
  return "<!doctype html><body><iframe id=f width=360 height=1600 " + of +
         "></iframe><script>setInterval(() => { const page = "
         "document.getElementById('f').contentDocument, charts = page.defaultView.Chart; "
         "document.body.dataset.width = page.documentElement.scrollWidth; "
         "document.body.dataset.frame = page.body.dataset.ready; document.body.dataset.charts = "
         "charts ? Object.keys(charts.instances).length : 0; }, 50);</script></body>";
}

void expect_narrow(const std::string& dom) {
  EXPECT_THAT(dom, HasSubstr("data-frame=\"yes\""));
  EXPECT_THAT(dom, HasSubstr("data-charts=\"4\""));
  const size_t at = dom.find("data-width=\"");
  ASSERT_NE(at, std::string::npos) << dom;
  EXPECT_LE(std::atoi(dom.c_str() + at + 12), 360);
}

// Serves /narrow, and what a daemon serves without its ban on frames.
class FramingServer {
 public:
  explicit FramingServer(int daemon_port) : daemon_("127.0.0.1", daemon_port) {
    server_.Get("/narrow", [](const auto&, auto& response) {
      response.set_content(narrow_frame("src=/"), "text/html");
    });
    server_.Get(".*", [this](const auto& request, auto& response) {
      const std::lock_guard lock(mutex_);
      const auto answer = daemon_.Get(request.path);
      response.status = answer ? answer->status : 502;
      if (answer) response.set_content(answer->body, answer->get_header_value("Content-Type"));
    });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::jthread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~FramingServer() { server_.stop(); }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/narrow"; }

 private:
  std::mutex mutex_;
  httplib::Client daemon_;
  httplib::Server server_;
  int port_ = 0;
  std::jthread thread_;
};

TEST_F(WatchProgramsTest, PrometheusScrapesAndAnswers) {
  for (const char* program : {"prometheus", "promtool"}) {
    if (!has_program(program)) GTEST_SKIP() << "needs Debian's package prometheus: " << program;
  }
  const std::string rules = HOTSET_SOURCE_DIR "/tools/prometheus/rules.yaml";
  EXPECT_EQ(shell("promtool check rules " + rules + " > rules 2>&1"), 0) << content(path("rules"));
  Process daemon_process(daemon("d")), engine_process(engine());
  ASSERT_TRUE(wait_for([&] { return has("d", "tick", engine_process); }));
  httplib::Client daemon_client("127.0.0.1", port("d"));
  std::ofstream(path("metrics")) << daemon_client.Get("/metrics")->body;
  EXPECT_EQ(output("promtool check metrics < metrics"), "");

  const int prometheus_port = free_port();
  std::ofstream(path("prometheus.yaml"))
      << "global: {scrape_interval: 1s}\nrule_files: [" << rules
      << "]\nscrape_configs: [{job_name: hotset, static_configs: [{targets: [\"127.0.0.1:"
      << port("d") << "\"]}]}]\n";
  Process prometheus("prometheus --config.file=" + path("prometheus.yaml") +
                     " --storage.tsdb.path=" + path("tsdb") + " --web.listen-address=127.0.0.1:" +
                     std::to_string(prometheus_port) + " > " + path("prometheus.log") + " 2>&1");
  httplib::Client client("127.0.0.1", prometheus_port);
  client.set_read_timeout(5);
  const auto value = [&](const std::string& query) {
    const auto answer =
        client.Get("/api/v1/query", httplib::Params{{"query", query}}, httplib::Headers{});
    if (!answer || answer->status != 200) return -1.0;
    const json result = json::parse(answer->body)["data"]["result"];
    return result.empty() ? -1.0 : std::stod(result[0]["value"][1].get<std::string>());
  };
  EXPECT_TRUE(wait_for([&] { return value("rate(hotset_tokens_total[10s])") > 0; }, 40))
      << content(path("prometheus.log"));
  const double median =
      value("histogram_quantile(0.5, rate(hotset_token_latency_seconds_bucket[10s]))");
  EXPECT_GT(median, 0);
  EXPECT_LT(median, 1);
  EXPECT_GT(value("sum by (model) (rate(hotset_expert_picks_total{source=\"resident\"}[10s])) / "
                  "sum by (model) (rate(hotset_expert_picks_total[10s]))"),
            0);
}

TEST_F(WatchProgramsTest, ABrowserShowsThePageWideAndNarrow) {
  if (!has_program("chromium")) GTEST_SKIP() << "needs Debian's package chromium";
  const std::string chromium =
      "timeout 60 chromium --headless --no-sandbox --disable-gpu --hide-scrollbars "
      "--user-data-dir=" +
      path("profile") + " --virtual-time-budget=5000 ";
  Process daemon_process(daemon("d")), engine_process(engine());
  ASSERT_TRUE(wait_for([&] { return has("d", "tick", engine_process); }));
  const std::string dom = output(chromium + "--dump-dom " + url("d") + "/");
  EXPECT_THAT(dom, HasSubstr("data-ready=\"yes\"")) << said("d");
  EXPECT_THAT(dom, HasSubstr("hotset-demo-q4_0.gguf"));
  for (const char* id : {"hit-rate", "latency", "split", "layers", "heat", "slow"}) {
    EXPECT_THAT(dom, HasSubstr(std::string("id=\"") + id + "\""));
  }
  // The library gives a size of its own to each canvas that it draws on.
  for (const char* id : {"hit-rate", "latency", "split", "layers"}) {
    const size_t tag = dom.find(std::string("<canvas id=\"") + id + "\"");
    EXPECT_THAT(dom.substr(tag, dom.find('>', tag) - tag), HasSubstr("height: 200px")) << id;
  }
  EXPECT_THAT(dom, HasSubstr("<dt>hit rate, 10 s</dt>"));
  shell(chromium + "--window-size=1280,1000 --screenshot=wide.png " + url("d") + "/ > log 2>&1");
  ASSERT_TRUE(std::filesystem::exists(path("wide.png"))) << content(path("log"));
  EXPECT_GT(std::filesystem::file_size(path("wide.png")), 20000U);  // white would be 5 KB

  const FramingServer framing(port("d"));
  expect_narrow(output(chromium + "--dump-dom " + framing.url()));
  const auto shoot = [&](const std::string& name, const std::string& from) {
    shell(chromium + "--window-size=500,1600 --screenshot=" + name + " " + from + " > log 2>&1");
    ASSERT_TRUE(std::filesystem::exists(path(name))) << content(path("log"));
    EXPECT_GT(std::filesystem::file_size(path(name)), 20000U) << name;
  };
  shoot("narrow.png", framing.url());

  daemon_process.kill(SIGTERM);
  daemon_process.wait();
  ASSERT_EQ(hotset("report " + path("d.jsonl") + " -o " + path("report.html")).exit_code, 0);
  std::string escaped;
  for (const char c : content(path("report.html"))) {
    escaped += c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  }
  std::ofstream(path("narrow.html")) << narrow_frame("srcdoc=\"" + escaped + "\"");
  expect_narrow(output(chromium + "--dump-dom file://" + path("narrow.html")));
  shoot("narrow_report.png", "file://" + path("narrow.html"));
}

TEST_F(WatchProgramsTest, TopFollowsItsTerminal) {
  if (!has_program("tmux")) GTEST_SKIP() << "needs Debian's package tmux";
  Process engine_process(engine());
  const std::string tmux = "tmux -S " + path("socket") + " ";
  ASSERT_EQ(shell(tmux + "-f /dev/null new-session -d -x 90 -y 30 'env " + here() + " " +
                  HOTSET_BINARY + " top; echo ended; sleep 60'"),
            0);
  const auto screen = [&] { return output(tmux + "capture-pane -p"); };
  const auto shows = [&](const std::string& text) {
    return wait_for([&] { return screen().find(text) != std::string::npos; });
  };
  EXPECT_TRUE(shows("hit rate    10 s")) << screen();
  EXPECT_TRUE(shows("layer   0  "));
  shell(tmux + "resize-window -x 40 -y 8");
  EXPECT_TRUE(wait_for([&] { return screen().find("layer   5") == std::string::npos; }));
  EXPECT_TRUE(shows("hit rate    10 s"));
  shell(tmux + "send-keys C-c");
  EXPECT_TRUE(shows("ended")) << screen();
  shell(tmux + "kill-server");
}

}  // namespace
}  // namespace hotset
