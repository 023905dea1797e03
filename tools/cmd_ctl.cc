// `hotset ctl`: asks a running engine, or changes its settings, over its control socket.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "tools/cache_folder.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/engine_client.h"
#include "tools/size.h"

namespace hotset {
namespace {

using json = nlohmann::ordered_json;

struct CtlOptions {
  std::optional<int> pid;
  bool json = false;
  ControlRequest request;
};

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
  const json answer = ask(find_engine(runtime_folders(), options.pid), options.request);
  if (options.json) {
    fmt::print("{}\n", answer.dump());
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
