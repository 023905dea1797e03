// compressed-tensors' int-quantized: weight i8 [N, K], weight_scale [N, 1], or [1] for the tensor,
// asymmetric with weight_zero_point i8 beside it; w = (q - z) * scale. And its float-quantized,
// which is fp8_blocks.cc with other names.
#include <algorithm>

#include "kernels/check.h"
#include "runtime/weights/quantised/module_tensors.h"
#include "runtime/weights/quantised/schemes.h"

namespace hotset {
namespace {

class IntQuantizedMatrix : public QuantisedMatrix {
 public:
  IntQuantizedMatrix(const ModuleTensors& module, int64_t n, int64_t k,
                     const CompressedWeights& weights)
      : codes_(module.need(".weight", {"I8"}, {n, k})),
        per_row_(weights.group == 0 ? 1 : ceil_div(k, weights.group)),
        scales_(module.need(".weight_scale", {"F16", "BF16", "F32"})) {
    if (weights.strategy != "tensor" || scales_.info.elements() != 1) {
      module.need(".weight_scale", {"F16", "BF16", "F32"}, {n, per_row_});
    }
    tensors_ = {&codes_.info, &scales_.info};
    if (!weights.is_symmetric) {
      zeros_ = &module.need(".weight_zero_point", {"I8"});
      if (zeros_->info.elements() != scales_.info.elements()) {
        module.need(".weight_zero_point", {"I8"}, {n, per_row_});
      }
      tensors_.push_back(&zeros_->info);
    }
    n_ = n;
    k_ = k;
    form_.bits = 8;
    form_.block = weights.group;
    form_.scale = scale_type(scales_);
    form_.has_zeros = zeros_ != nullptr;
    scheme_ = "compressed-tensors int-quantized, 8 bits" +
              std::string(zeros_ != nullptr ? ", asymmetric" : "");
  }

  void read(int64_t first_row, int64_t rows, const CodedRows& out,
            Scratch& scratch) const override {
    read_bytes(codes_.info, first_row * k_,
               std::as_writable_bytes(std::span(out.codes, static_cast<size_t>(rows * k_))));
    const bool is_one = scales_.info.elements() == 1;
    const int64_t first = is_one ? 0 : first_row, count = is_one ? 1 : rows;
    read_scale_rows(scales_, first, count, per_row_, out.scales, scratch);
    if (is_one) std::fill_n(out.scales, rows, out.scales[0]);
    if (zeros_ == nullptr) return;
    const auto zeros = std::span(out.zeros, static_cast<size_t>(count * per_row_));
    read_bytes(zeros_->info, first * per_row_, std::as_writable_bytes(zeros));
    if (is_one) std::fill_n(out.zeros, rows, out.zeros[0]);
  }

 private:
  const StoredTensor& codes_;
  const int64_t per_row_;
  const StoredTensor& scales_;
  const StoredTensor* zeros_ = nullptr;
};

}  // namespace

std::unique_ptr<QuantisedMatrix> make_int_quantized(const SafetensorsFolder& folder,
                                                    const std::string& module, int64_t n, int64_t k,
                                                    const CompressedWeights& weights) {
  if (weights.type != "int" || weights.bits != 8 || weights.strategy == "block") {
    throw Error("module " + module + ": compressed-tensors int-quantized of " +
                std::to_string(weights.bits) + " bits (" + printable(weights.type) + ", " +
                weights.strategy + ") is not read, expected int of 8 bits by tensor, channel or " +
                "group");
  }
  return std::make_unique<IntQuantizedMatrix>(ModuleTensors(folder, module), n, k, weights);
}

std::unique_ptr<QuantisedMatrix> make_float_quantized(const SafetensorsFolder& folder,
                                                      const std::string& module, int64_t n,
                                                      int64_t k, const CompressedWeights& weights) {
  int64_t rows = 0, columns = 0;  // of a block; 0: all
  if (weights.strategy == "block") {
    rows = weights.block[0];
    columns = weights.block[1];
  } else if (weights.strategy == "channel") {
    rows = 1;
  } else if (weights.strategy == "group") {
    rows = 1;
    columns = weights.group;
  } else if (weights.strategy != "tensor") {
    throw Error("module " + module + ": compressed-tensors float-quantized by " + weights.strategy +
                " is not read, expected tensor, channel, group or block");
  }
  return make_e4m3(folder, module, n, k, ".weight_scale", rows, columns,
                   "compressed-tensors float-quantized, by " + weights.strategy);
}

}  // namespace hotset
