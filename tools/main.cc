// `hotset`: parses the command line, runs one subcommand, and turns what went wrong into one line
// on stderr and an exit code: 1 error, 2 usage or configuration, 130 Ctrl-C, 143 SIGTERM, 129
// SIGHUP (all of which end cleanly).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>

#include "kernels/check.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/interrupt.h"

namespace {

constexpr int kErrorExit = 1, kUsageExit = 2;

int report(std::string message, int exit_code) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fprintf(stderr, "hotset: %s\n", message.c_str());
  return exit_code;
}

int run(int argc, char** argv) {
  CLI::App app("Runs Mixture-of-Experts language models through an expert cache.", "hotset");
  app.set_version_flag("--version", std::string("hotset ") + HOTSET_VERSION);
  app.require_subcommand(1);
  hotset::add_run_command(app);
  hotset::add_eval_command(app);
  hotset::add_tokenize_command(app);
  hotset::add_inspect_command(app);
  hotset::add_bench_command(app);
  hotset::add_quantize_command(app);
  hotset::add_pack_command(app);
  hotset::add_daemon_command(app);
  hotset::add_top_command(app);
  hotset::add_report_command(app);
  hotset::add_config_command(app);
  hotset::add_simulate_command(app);
  hotset::add_tune_command(app);
  hotset::add_trace_command(app);
  hotset::add_ctl_command(app);
  hotset::add_cache_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return report(std::string(error.what()) + " (--help shows what there is)", kUsageExit);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  hotset::catch_interrupts();
  try {
    const int status = run(argc, argv);
    if (std::fflush(stdout) != 0) return report("standard output cannot be written", kErrorExit);
    return status;
  } catch (const hotset::Interrupted&) {
    return hotset::end_exit_code();
  } catch (const hotset::ConfigError& error) {
    return report(error.what(), kUsageExit);
  } catch (const std::bad_alloc&) {
    return report("out of memory", kErrorExit);
  } catch (const std::exception& error) {
    return report(error.what(), kErrorExit);
  }
}
