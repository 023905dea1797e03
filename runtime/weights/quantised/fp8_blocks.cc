// FP8 (DeepSeek, Qwen "-FP8"): weight float8_e4m3fn [N, K], weight_scale_inv [ceil(N / block),
// ceil(K / block)], float32 or bfloat16; w = q * weight_scale_inv, a multiplier in spite of its
// name. Blocks at the edges are ragged. compressed-tensors' float-quantized is the same with other
// names.
#include <algorithm>

#include "runtime/weights/quantised/module_tensors.h"
#include "runtime/weights/quantised/schemes.h"

namespace hotset {
namespace {

class E4m3Matrix : public QuantisedMatrix {
 public:
  E4m3Matrix(const StoredTensor& codes, const StoredTensor& scales, int64_t n, int64_t k,
             int64_t block_rows, int64_t block_columns, std::string scheme)
      : codes_(codes), scales_(scales), block_rows_(block_rows) {
    tensors_ = {&codes.info, &scales.info};
    n_ = n;
    k_ = k;
    form_.values = CodedForm::Values::kE4M3;
    form_.block = block_columns >= k ? 0 : block_columns;
    form_.scale = scale_type(scales);
    scheme_ = std::move(scheme);
  }

  void read(int64_t first_row, int64_t rows, const CodedRows& out,
            Scratch& scratch) const override {
    read_bytes(codes_.info, first_row * k_,
               std::as_writable_bytes(std::span(out.codes, static_cast<size_t>(rows * k_))));
    const int64_t per_row = form_.blocks(k_), first = first_row / block_rows_;
    const int64_t count = ceil_div(first_row + rows, block_rows_) - first;
    const auto scales = scratch.take<float>(count * per_row);
    read_scale_rows(scales_, first, count, per_row, scales.data(), scratch);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = ((first_row + r) / block_rows_ - first) * per_row;
      std::copy_n(scales.data() + at, per_row, out.scales + r * per_row);
    }
  }

 private:
  const StoredTensor &codes_, &scales_;
  const int64_t block_rows_;
};

class Fp8Blocks : public QuantisedScheme {
 public:
  Fp8Blocks(const JsonObject& config, const SafetensorsFolder& folder) : folder_(folder) {
    const std::string kind = config.find_string("fmt").value_or("e4m3");
    if (kind != "e4m3") {
      config.fail("fmt", "found \"" + printable(kind) + "\", expected \"e4m3\"");
    }
    const auto* size = config.find("weight_block_size");
    const bool is_pair = size != nullptr && size->is_array() && size->size() == 2;
    for (size_t i = 0; i < 2; ++i) {
      const bool is_integer = is_pair && (*size)[i].is_number_unsigned();
      block_[i] = is_integer ? static_cast<int64_t>(std::min<uint64_t>((*size)[i].get<uint64_t>(),
                                                                       uint64_t{1} << 40))
                             : 0;
      if (block_[i] < 1 || block_[i] > 1 << 20) {
        config.fail("weight_block_size",
                    "found " + (size == nullptr ? "none" : printable(size->dump())) +
                        ", expected a pair of positive integers: other fp8 is not read");
      }
    }
  }

  std::unique_ptr<QuantisedMatrix> find(const std::string& module, int64_t n,
                                        int64_t k) const override {
    const ModuleTensors tensors(folder_, module);
    if (!tensors.is_dtype(".weight", "F8_E4M3")) return nullptr;
    return make_e4m3(
        folder_, module, n, k, ".weight_scale_inv", block_[0], block_[1],
        "fp8, blocks of " + std::to_string(block_[0]) + " x " + std::to_string(block_[1]));
  }

 private:
  const SafetensorsFolder& folder_;
  int64_t block_[2] = {0, 0};
};

}  // namespace

std::unique_ptr<QuantisedMatrix> make_e4m3(const SafetensorsFolder& folder,
                                           const std::string& module, int64_t n, int64_t k,
                                           const char* scale_suffix, int64_t block_rows,
                                           int64_t block_columns, std::string scheme) {
  const ModuleTensors tensors(folder, module);
  const StoredTensor& codes = tensors.need(".weight", {"F8_E4M3"}, {n, k});
  const int64_t rows = block_rows == 0 ? n : block_rows;
  const int64_t columns = block_columns == 0 ? k : block_columns;
  const Dtypes dtypes = {"F32", "BF16", "F16"};
  const StoredTensor* scales = &tensors.need(scale_suffix, dtypes);
  if (scales->info.elements() != 1 || ceil_div(n, rows) * ceil_div(k, columns) != 1) {
    scales = &tensors.need(scale_suffix, dtypes, {ceil_div(n, rows), ceil_div(k, columns)});
  }
  return std::make_unique<E4m3Matrix>(codes, *scales, n, k, rows, columns, std::move(scheme));
}

std::unique_ptr<QuantisedScheme> open_fp8_blocks(const JsonObject& config,
                                                 const SafetensorsFolder& folder) {
  return std::make_unique<Fp8Blocks>(config, folder);
}

}  // namespace hotset
