// A quantised folder: the input is config.json, a zero byte, and model.safetensors, for the reader
// of whichever scheme the first names. Described and decoded, or refused by an Error. Seeds: the
// tensor folders of tests/data/quantised and the quantised ones of tests/data/bad.
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/check.h"
#include "runtime/weights/json.h"
#include "runtime/weights/quantised/quantised.h"
#include "runtime/weights/safetensors.h"
#include "tests/fuzz/fuzz_input.h"

namespace hotset {
namespace {

// Decodes and packs a module as [n, k].
void read_module(const QuantisedScheme& scheme, const std::string& module, int64_t n, int64_t k) {
  constexpr int64_t kMost = 1 << 20;
  if (n < 1 || k < 1 || n > kMost || k > kMost || n * k > kMost) return;
  const auto matrix = scheme.find(module, n, k);
  if (matrix == nullptr) return;
  std::vector<float> values(static_cast<size_t>(n * k));
  dequantise_rows(*matrix, 0, n, values.data());
  const PackedShape shape = packed_shape(packed_format(matrix->form(), k), n, k);
  if (shape.format.layout == Layout::kPF) return;
  std::vector<std::byte> memory(static_cast<size_t>(CodedBuffer::bytes(*matrix, n)));
  std::vector<std::byte> packed(static_cast<size_t>(shape.bytes));
  CodedBuffer buffer(*matrix, n, memory.data());
  matrix->read(0, n, buffer.rows, buffer.scratch);
  pack_coded_rows(shape, matrix->form(), buffer.rows, 0, n, packed.data());
}

// With the shapes that its tensors suggest: their own, and those of packed codes.
void read_modules(const SafetensorsFolder& folder, const QuantisedScheme& scheme) {
  for (const StoredTensor* tensor : folder.others()) {
    const std::string& name = tensor->info.name;
    const size_t end = std::min(name.rfind('.'), name.rfind("_blocks"));
    const std::string module = name.substr(0, end);
    const int64_t rows = tensor->info.rows(), width = tensor->info.row_length();
    for (const auto& [n, k] : {std::pair(rows, width),
                               {width, rows * 8},
                               {width * 8, rows},
                               {rows, width * 8},
                               {rows, width * 2},
                               {rows, width * 4},
                               {96, 128}}) {
      try {
        read_module(scheme, module, n, k);
      } catch (const Error&) {
      }
    }
  }
}

}  // namespace
}  // namespace hotset

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const hotset::FuzzFolder folder;
  const auto* end = static_cast<const uint8_t*>(size > 0 ? std::memchr(data, 0, size) : nullptr);
  if (end == nullptr) return 0;
  const auto config_size = static_cast<size_t>(end - data);
  folder.write("model.safetensors", end + 1, size - config_size - 1);
  try {
    const nlohmann::json config = hotset::parse_json(
        std::string_view(reinterpret_cast<const char*>(data), config_size), "config.json");
    const hotset::SafetensorsFolder tensors(folder.path());
    const auto scheme = hotset::open_scheme(config, "config.json", tensors);
    if (scheme != nullptr) hotset::read_modules(tensors, *scheme);
  } catch (const hotset::Error&) {
  }
  return 0;
}
