// compressed-tensors' nvfp4-pack-quantized: weight_packed u8 [N, K/2], E2M1 codes, low nibble
// first; weight_scale e4m3 [N, K/16]; weight_global_scale f32, which divides. w = E2M1[q] * s with
// s = weight_scale / weight_global_scale, rounded first.
#include <cmath>

#include "kernels/check.h"
#include "runtime/weights/quantised/module_tensors.h"
#include "runtime/weights/quantised/schemes.h"

namespace hotset {
namespace {

constexpr int64_t kBlock = 16;

class Nvfp4Matrix : public QuantisedMatrix {
 public:
  Nvfp4Matrix(const ModuleTensors& module, int64_t n, int64_t k)
      : codes_(module.need(".weight_packed", {"U8"}, {n, k / 2})),
        scales_(module.need(".weight_scale", {"F8_E4M3"}, {n, k / kBlock})) {
    const StoredTensor& global = module.need(".weight_global_scale", {"F32"}, {1});
    read_bytes(global.info, 0, std::as_writable_bytes(std::span(&global_, 1)));
    if (!std::isfinite(global_) || global_ == 0) {
      refuse_tensor(global.info,
                    "found " + std::to_string(global_) + ", expected a finite number other than 0");
    }
    tensors_ = {&codes_.info, &scales_.info, &global.info};
    n_ = n;
    k_ = k;
    form_.values = CodedForm::Values::kTable;
    form_.block = kBlock;
    form_.scale = ScaleType::kE4M3;
    form_.factor = CodedForm::Factor::kScaleOver;
    form_.table = kE2m1;
    scheme_ = "compressed-tensors nvfp4-pack-quantized";
  }

  void read(int64_t first_row, int64_t rows, const CodedRows& out,
            Scratch& scratch) const override {
    const auto raw = scratch.take<std::byte>(rows * k_ / 2);
    read_bytes(codes_.info, first_row * k_ / 2, raw);
    unpack_nibbles(raw.data(), rows * k_, false, out.codes);
    read_scale_rows(scales_, first_row, rows, k_ / kBlock, out.scales, scratch);
    std::fill_n(out.factors, rows, global_);
  }

 private:
  const StoredTensor &codes_, &scales_;
  float global_ = 0;
};

}  // namespace

std::unique_ptr<QuantisedMatrix> make_nvfp4_packed(const SafetensorsFolder& folder,
                                                   const std::string& module, int64_t n, int64_t k,
                                                   const CompressedWeights&) {
  if (k % kBlock != 0) {
    throw Error("module " + module + ": nvfp4 of rows of " + std::to_string(k) +
                " weights is not read, expected a multiple of 16");
  }
  return std::make_unique<Nvfp4Matrix>(ModuleTensors(folder, module), n, k);
}

}  // namespace hotset
