// `hotset daemon`: watches every engine of this user, logs, and serves what it finds.
#include <fmt/format.h>
#include <signal.h>

#include <memory>
#include <optional>

#include "profiler/daemon.h"
#include "profiler/http_server.h"
#include "tools/auto_tuning.h"
#include "tools/cache_folder.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/now.h"
#include "tools/size.h"

namespace hotset {
namespace {

struct DaemonFlags {
  std::string config_file;
  std::vector<std::string> sets;
  std::optional<int32_t> port;
  std::optional<std::string> log;
};

Config config_of(const DaemonFlags& flags) {
  Config config;
  load_settings(config, flags.config_file, flags.sets);
  if (flags.port) config.daemon.port = *flags.port;
  if (flags.log) config.daemon.log = *flags.log;
  check_config(config);
  return config;
}

std::unique_ptr<JsonLog> open_log(const Config& config) {
  if (!config.daemon.log) return nullptr;
  const Size size = *Size::parse(config.daemon.log_size);  // check_config has seen it
  if (size.is_percent()) throw ConfigError("daemon.log_size: found a part, expected bytes: 32MiB");
  return std::make_unique<JsonLog>(*config.daemon.log, size.bytes_of(0));
}

std::unique_ptr<JsonLog> open_log_if_possible(const Config& config) {
  try {
    return open_log(config);
  } catch (const Error& error) {
    fmt::print(stderr, "hotset: {}; nothing is logged until SIGHUP comes again\n", error.what());
    return nullptr;
  }
}

std::unique_ptr<HttpServer> serve(Daemon& daemon, const Config& config) {
  HttpOptions options;
  options.address = config.daemon.address;
  options.port = config.daemon.port;
  options.key = config.daemon.key.value_or("");
  auto server = std::make_unique<HttpServer>(daemon, options);
  fmt::print(stderr, "serving http://{}:{}/ and /metrics\n", options.address, server->port());
  return server;
}

// Signals that mean something here, taken one at a time where the loop waits; blocked before any
// thread begins, since threads inherit that.
sigset_t blocked_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// What the server was started with stays: who scrapes it must not lose it.
std::vector<std::string> keys_of_next_start(const DaemonConfig& now, const DaemonConfig& wanted) {
  std::vector<std::string> keys;
  if (wanted.address != now.address) keys.push_back("daemon.address");
  if (wanted.port != now.port) keys.push_back("daemon.port");
  if (wanted.key != now.key) keys.push_back("daemon.key");
  return keys;
}

// Puts the settings in force that the file has now; where they cannot be had, all is as before.
// Only a log whose folder has gone cannot be opened again: the watch goes on without.
void reload(const DaemonFlags& flags, Config& config, Daemon& daemon, std::unique_ptr<JsonLog>& log,
            std::optional<AutoTuning>& tuning) {
  try {
    Config wanted = config_of(flags);
    log.reset();  // before it is opened again: the file has a lock
    log = open_log(wanted);
    daemon.set_slow_factor(wanted.daemon.slow_factor);
    if (tuning && !wanted.tune.automatic) {
      tuning->finish(now(), log.get());
      tuning.reset();
    }
    if (!tuning && wanted.tune.automatic) tuning.emplace();
    const auto fixed = keys_of_next_start(config.daemon, wanted.daemon);
    fmt::print(stderr, "settings read again{}{}\n",
               fixed.empty() ? "" : "; from the next start on: ", fmt::join(fixed, ", "));
    wanted.daemon.address = config.daemon.address;
    wanted.daemon.port = config.daemon.port;
    wanted.daemon.key = config.daemon.key;
    config = wanted;
  } catch (const std::exception& error) {
    fmt::print(stderr, "hotset: settings were not read again: {}\n", error.what());
    if (!log) log = open_log_if_possible(config);
  }
}

void run_daemon(const DaemonFlags& flags) {
  Config config = config_of(flags);
  const sigset_t signals = blocked_signals();
  std::unique_ptr<JsonLog> log = open_log(config);
  Daemon daemon(runtime_folders(), config.daemon.slow_factor);
  const std::unique_ptr<HttpServer> server = serve(daemon, config);
  std::optional<AutoTuning> tuning;
  if (config.tune.automatic) tuning.emplace();
  std::vector<std::string> refused;
  while (true) {
    daemon.keep_records(tuning.has_value());
    daemon.tick(now(), log.get());
    if (tuning) tuning->tick(daemon.engines(), now(), log.get());
    if (daemon.refused() != refused) {
      refused = daemon.refused();
      for (const std::string& why : refused) fmt::print(stderr, "hotset: not watched: {}\n", why);
    }
    constexpr timespec kPeriod = {1, 0};
    const int signal = sigtimedwait(&signals, nullptr, &kPeriod);
    if (signal == SIGTERM || signal == SIGINT) break;
    if (signal == SIGHUP) reload(flags, config, daemon, log, tuning);
  }
  if (tuning) tuning->finish(now(), log.get());
  daemon.finish(now(), log.get());
}

}  // namespace

void add_daemon_command(CLI::App& app) {
  const auto o = std::make_shared<DaemonFlags>();
  CLI::App* command =
      app.add_subcommand("daemon", "Watch running engines: log, metrics, a live page");
  command->add_option("--config", o->config_file, "a YAML file of settings; SIGHUP reads it again");
  command->add_option("--set", o->sets, "one setting: key=value; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--port", o->port, "port on 127.0.0.1 (default: 9477; 0: any)");
  command->add_option("--log", o->log, "write JSON lines to this file (default: no log)");
  command->footer(
      "Example:\n  hotset daemon --log hotset.jsonl    then open http://127.0.0.1:9477/");
  command->callback([o] { run_daemon(*o); });
}

}  // namespace hotset
