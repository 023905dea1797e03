// `hotset config`: the settings that a file and flags come to, or what there is to set.
#include <fmt/format.h>

#include <memory>

#include "tools/commands.h"
#include "tools/config.h"

namespace hotset {
namespace {

struct ConfigOptions {
  std::string file;
  std::vector<std::string> sets;
  bool schema = false, json = false;
};

void run_config(const ConfigOptions& options) {
  if (options.schema) {
    fmt::print("{}", config_schema());
    return;
  }
  Config config;
  load_settings(config, options.file, options.sets);
  check_config(config);
  fmt::print("{}", options.json ? dump_config_json(config) : dump_config(config));
}

}  // namespace

void add_config_command(CLI::App& app) {
  const auto o = std::make_shared<ConfigOptions>();
  CLI::App* command = app.add_subcommand("config", "Check and print settings, or their schema");
  auto* file = command->add_option("--config", o->file, "a YAML file of settings to start from");
  auto* set = command->add_option("--set", o->sets, "one setting: key=value; may be repeated")
                  ->allow_extra_args(false);
  command->add_flag("--json", o->json, "as one JSON object instead of YAML");
  command
      ->add_flag("--schema", o->schema,
                 "print the JSON schema of such a file instead: for editors that speak YAML")
      ->excludes(file)
      ->excludes(set);
  command->footer("Example:\n  hotset config --config my.yaml --set cpu.threads=4");
  command->callback([o] { run_config(*o); });
}

}  // namespace hotset
