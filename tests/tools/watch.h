// Engines and daemons as processes beside a test, in a runtime folder of its own.
#pragma once

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "profiler/ring_reader.h"
#include "tests/tools/cli.h"
#include "tests/tools/process.h"

namespace hotset {

class WatchTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    std::filesystem::permissions(folder_, std::filesystem::perms::owner_all);
  }
  // Before a command: whatever is kept, is kept here.
  std::string here() const {
    return "XDG_RUNTIME_DIR=" + folder_.string() + " XDG_CACHE_HOME=" + path("cache_home");
  }
  // The command line of a program that ends in `name`.out and `name`.err.
  std::string program(const std::string& name, const std::string& arguments) const {
    return "env " + here() + " " + HOTSET_BINARY + " " + arguments + " > " + path(name) +
           ".out 2> " + path(name) + ".err < /dev/null";
  }
  // An engine that decodes until it is told to stop.
  std::string engine(const std::string& name = "engine") const {
    return program(name,
                   "bench -m " + kDemo + " --ram 50% --threads 1 -p 16 -n 4000 -r 1000 --ctx 4096");
  }
  std::string daemon(const std::string& name) const {
    return program(name, "daemon --port 0 --log " + path(name) + ".jsonl");
  }
  std::string said(const std::string& name) const { return content(path(name + ".err")); }

  // The log's lines so far that are whole.
  std::vector<json> lines(const std::string& name) const {
    std::vector<json> found;
    std::istringstream text(content(path(name + ".jsonl")));
    for (std::string line; std::getline(text, line);) {
      const json parsed = json::parse(line, nullptr, false);
      if (parsed.is_object()) found.push_back(parsed);
    }
    return found;
  }
  int64_t count(const std::string& name, const std::string& event, pid_t pid) const {
    const std::vector<json> all = lines(name);
    return std::count_if(all.begin(), all.end(), [&](const json& line) {
      return line.value("event", "") == event && line.value("pid", 0) == pid;
    });
  }
  bool has(const std::string& name, const std::string& event, const Process& of) const {
    return count(name, event, of.pid()) > 0;
  }
  // Of the last tick's line about it.
  int64_t hits(const std::string& name, const Process& of) const {
    int64_t last = 0;
    for (const json& line : lines(name)) {
      if (line.value("event", "") == "tick" && line.value("pid", 0) == of.pid())
        last = line["hits"];
    }
    return last;
  }
  // The port that a daemon serves on; 0: it does not yet.
  int port(const std::string& name) const {
    const std::string text = said(name);
    const size_t at = text.find("127.0.0.1:");
    return at == std::string::npos ? 0 : std::atoi(text.c_str() + at + 10);
  }
  // The ring that the process has made; empty: not yet, or not to its end.
  std::string ring_of(const Process& process) const {
    for (const std::string& ring : find_rings(path("hotset"))) {
      try {
        if (RingReader(ring).header().pid == process.pid()) return ring;
      } catch (const Error&) {
      }
    }
    return "";
  }
};

}  // namespace hotset
