// `hotset ctl`: asks a running engine, or changes its settings, over its control socket.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "tools/cache_folder.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/control_socket.h"
#include "tools/size.h"

namespace hotset {
namespace {

using nlohmann::json;

struct CtlOptions {
  std::optional<int> pid;
  bool json = false;
  ControlRequest request;
};

int engine_pid(const std::string& folder, const std::optional<int>& asked) {
  if (asked) return *asked;
  const std::vector<int> pids = engines_in(folder);
  if (pids.empty()) {
    throw Error(folder + ": no engine is listening; hotset run, bench and eval do while they run");
  }
  if (pids.size() > 1) {
    throw ConfigError(fmt::format("found {} running engines, expected --pid with one of {}",
                                  pids.size(), fmt::join(pids, ", ")));
  }
  return pids.front();
}

void print_stats(const json& stats) {
  const json& experts = stats["experts"];
  const auto bytes = [&](const char* key) { return human_bytes(experts[key].get<int64_t>()); };
  const int64_t hits = experts["hits"], misses = experts["misses"];
  fmt::print("engine   pid {}, {}\n", stats["pid"].get<int>(), stats["model"].get<std::string>());
  fmt::print("experts  {} in slots of {} budgeted, {} resident, {} in all\n", bytes("slot_bytes"),
             bytes("budget_bytes"), bytes("resident_bytes"), bytes("all_bytes"));
  fmt::print("use      {} hits, {} misses, hit rate {:.1f} %, {} evictions, {} read\n", hits,
             misses, 100 * experts["hit_rate"].get<double>(), experts["evictions"].get<int64_t>(),
             bytes("bytes_read"));
}

void print_keys(const char* what, const json& keys) {
  if (keys.empty()) return;
  std::vector<std::string> names = keys;
  fmt::print("{}{}\n", what, fmt::join(names, ", "));
}

void print_answer(const json& answer, ControlCommand command) {
  if (command == ControlCommand::kStats) return print_stats(answer);
  if (answer["changed"].empty()) fmt::print("nothing to change\n");
  print_keys("changed: ", answer["changed"]);
  print_keys("from the next start on: ", answer.value("needs_restart", json::array()));
}

void run_ctl(const CtlOptions& options) {
  const std::string folder = runtime_folder();
  const std::string line = ask_engine(folder, engine_pid(folder, options.pid), options.request);
  const json answer = json::parse(line, nullptr, false);
  if (!answer.is_object() || !answer.contains("ok")) {
    throw Error("the engine answered \"" + line.substr(0, 100) + "\", expected a line of JSON");
  }
  if (!answer["ok"].get<bool>()) {
    const std::string error = answer["error"];
    if (answer.value("is_usage", false)) throw ConfigError(error);
    throw Error(error);
  }
  if (options.json) {
    fmt::print("{}", line);
  } else {
    print_answer(answer, options.request.command);
  }
}

}  // namespace

void add_ctl_command(CLI::App& app) {
  const auto o = std::make_shared<CtlOptions>();
  CLI::App* command = app.add_subcommand("ctl", "Ask or change an engine that runs");
  command->require_subcommand(1);
  command->add_option("--pid", o->pid, "the engine's process (default: the only one there is)");
  command->add_flag("--json", o->json, "the engine's answer as it is: one line of JSON");
  const auto add = [&](const char* name, const char* text, ControlCommand which) {
    CLI::App* sub = command->add_subcommand(name, text);
    sub->fallthrough();  // --pid and --json may come after it
    sub->callback([o, which] {
      o->request.command = which;
      run_ctl(*o);
    });
    return sub;
  };
  add("stats", "what its expert cache holds and does", ControlCommand::kStats);
  add("set", "change settings", ControlCommand::kSet)
      ->add_option("settings", o->request.settings,
                   "key=value of those settings that say so in `hotset config --schema`")
      ->required();
  add("reload", "read its configuration file again", ControlCommand::kReload);
  command->footer(
      "Example:\n  hotset ctl stats\n  hotset ctl --pid 4242 set ram=8GiB\nResizing keeps the best "
      "experts, and no setting changes an answer.");
}

}  // namespace hotset
