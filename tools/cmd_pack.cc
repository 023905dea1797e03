// `hotset pack`: a model's weights in packed form, in a file from which the next start is fast.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/peak_memory.h"
#include "tools/progress.h"
#include "tools/sidecars.h"
#include "tools/size.h"

namespace hotset {
namespace {

struct PackOptions {
  std::string model, output;
  bool json = false;
};

void run_pack(const PackOptions& options) {
  const ModelDescription model = open_model(options.model);
  const std::string output = options.output.empty() ? sidecar_beside(model) : options.output;
  int64_t kept = 0;
  {
    ProgressBar bar;
    kept = write_sidecar(model, output,
                         [&](int64_t done, int64_t all) { bar.update(done, all, "packing"); });
  }
  const auto bytes = static_cast<int64_t>(std::filesystem::file_size(output));
  if (options.json) {
    const nlohmann::ordered_json out = {{"output", output},
                                        {"source_bytes", model.file_bytes()},
                                        {"file_bytes", bytes},
                                        {"experts_kept", kept},
                                        {"peak_rss_bytes", peak_rss_bytes()}};
    fmt::print("{}\n", out.dump());
  } else {
    fmt::print(stderr, "{}: {} from {}{}\n", output, human_bytes(bytes),
               human_bytes(static_cast<int64_t>(model.file_bytes())),
               kept > 0 ? fmt::format(" ({} experts were packed already)", kept) : "");
  }
}

}  // namespace

void add_pack_command(CLI::App& app) {
  const auto o = std::make_shared<PackOptions>();
  CLI::App* command =
      app.add_subcommand("pack", "Write a model's packed weights, so that the next start is fast");
  command->add_option("source", o->model, "a .gguf file, or a Hugging Face folder")->required();
  command->add_option("-o,--output", o->output,
                      "the sidecar to write (default: beside the model, where it is looked for: "
                      "MODEL.hotset or FOLDER/model.hotset)");
  command->add_flag("--json", o->json, "one JSON object on stdout");
  command->footer("Example:\n  hotset pack model.gguf    # writes model.hotset");
  command->callback([o] { run_pack(*o); });
}

}  // namespace hotset
