// `hotset quantize`: a bf16, f16 or f32 model to one GGUF with quantised matrices, a window of rows
// at a time on all cores.
#include <fmt/format.h>
#include <tbb/parallel_for_each.h>
#include <tbb/task_arena.h>

#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "runtime/weights/keep_model.h"
#include "runtime/weights/model_description.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/cpu_topology.h"
#include "tools/gguf_export.h"
#include "tools/progress.h"
#include "tools/size.h"

namespace hotset {
namespace {

constexpr int64_t kWindowElements = 1 << 20;  // 6 MB of rows in three forms for each thread

struct QuantizeOptions {
  std::string source, output, type = "q4_0";
  bool json = false;
};

// Pieces of about kWindowElements, so that memory stays bounded and cores end together.
std::vector<RowCopy> windows_of(const std::vector<RowCopy>& copies) {
  std::vector<RowCopy> windows;
  for (const RowCopy& copy : copies) {
    const int64_t most = std::max<int64_t>(1, kWindowElements / copy.source.k);
    const auto row = static_cast<uint64_t>(row_bytes(copy.type, copy.source.k));
    for (int64_t done = 0; done < copy.rows; done += most) {
      RowCopy window = copy;
      window.first_row += done;
      window.rows = std::min(most, copy.rows - done);
      window.offset += static_cast<uint64_t>(done) * row;
      windows.push_back(std::move(window));
    }
  }
  return windows;
}

// Reads, checks, encodes and writes one window. Returns the bytes read.
int64_t convert(const RowCopy& window, GgufWriter& writer) {
  const MatrixSource& source = window.source;
  const int64_t elements = window.rows * source.k;
  std::vector<std::byte> raw(static_cast<size_t>(window.rows * row_bytes(source.type, source.k)));
  read_rows(source, window.first_row, window.rows, raw);
  if (const int64_t bad = first_not_finite(source.type, raw.data(), elements); bad >= 0) {
    throw Error(fmt::format(
        "{}: tensor {}: row {}: a weight is not finite; the file is damaged: fetch it again",
        source.rows.front().tensor->file->path(), source.name, window.first_row + bad / source.k));
  }
  std::vector<float> values(static_cast<size_t>(elements));
  dequantise_row(source.type, raw.data(), values.data(), elements);
  std::vector<std::byte> blocks(
      static_cast<size_t>(window.rows * row_bytes(window.type, source.k)));
  quantise_row(window.type, values.data(), blocks.data(), elements);
  writer.write(window.tensor, window.offset, blocks);
  return std::ssize(raw);
}

void run_quantize(const QuantizeOptions& options) {
  const ModelDescription model = open_model(options.source);
  check_keeps_model(model, options.output);
  GgufWriter writer(options.output);
  const ExportPlan plan =
      plan_export(writer, model, options.type == "q4_0" ? TensorType::kQ4_0 : TensorType::kQ8_0);
  writer.begin();
  for (const VectorCopy& vector : plan.vectors) {
    writer.write(vector.tensor, 0, std::as_bytes(std::span(vector.values)));
  }
  const std::vector<RowCopy> windows = windows_of(plan.matrices);
  int64_t total = 0, done = 0;
  for (const RowCopy& w : windows) total += w.rows * row_bytes(w.source.type, w.source.k);
  {
    ProgressBar bar;
    std::mutex mutex;
    tbb::task_arena(usable_cores()).execute([&] {
      tbb::parallel_for_each(windows, [&](const RowCopy& window) {
        const int64_t bytes = convert(window, writer);
        const std::lock_guard lock(mutex);
        done += bytes;
        bar.update(done, total, "quantising");
      });
    });
  }
  writer.commit();
  if (options.json) {
    const nlohmann::ordered_json out = {{"output", options.output},
                                        {"type", options.type},
                                        {"source_bytes", model.file_bytes()},
                                        {"file_bytes", writer.file_bytes()}};
    fmt::print("{}\n", out.dump());
  } else {
    fmt::print(stderr, "{}: {} from {}\n", options.output,
               human_bytes(static_cast<int64_t>(writer.file_bytes())),
               human_bytes(static_cast<int64_t>(model.file_bytes())));
  }
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  const auto o = std::make_shared<QuantizeOptions>();
  CLI::App* command =
      app.add_subcommand("quantize", "A bf16, f16 or f32 model to a quantised GGUF");
  command->add_option("source", o->source, "a .gguf file, or a Hugging Face folder")->required();
  command->add_option("-o,--output", o->output, "the GGUF to write")->required();
  command
      ->add_option("--type", o->type,
                   "type of the routed experts: q4_0 or q8_0; other matrices become Q8_0, router, "
                   "norms, convolution and biases F32")
      ->capture_default_str()
      ->check(CLI::IsMember({"q4_0", "q8_0"}));
  command->add_flag("--json", o->json, "one JSON object on stdout");
  command->footer("Example:\n  hotset quantize Qwen3-30B-A3B -o qwen3-30b-q4_0.gguf --type q4_0");
  command->callback([o] { run_quantize(*o); });
}

}  // namespace hotset
