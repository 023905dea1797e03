// The subcommands of `hotset`. Each function adds one to the application; it runs when the command
// line has been parsed. Data goes to stdout, words to stderr; errors are thrown.
#pragma once

#include <CLI/CLI.hpp>

namespace hotset {

void add_run_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_tokenize_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_quantize_command(CLI::App& app);
void add_pack_command(CLI::App& app);
void add_simulate_command(CLI::App& app);
void add_tune_command(CLI::App& app);
void add_trace_command(CLI::App& app);
void add_daemon_command(CLI::App& app);
void add_top_command(CLI::App& app);
void add_report_command(CLI::App& app);
void add_config_command(CLI::App& app);
void add_ctl_command(CLI::App& app);
void add_cache_command(CLI::App& app);

}  // namespace hotset
