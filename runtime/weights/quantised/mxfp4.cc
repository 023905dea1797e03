// MXFP4, E2M1 codes in blocks of 32 with a power of two: gpt-oss keeps a layer's experts together,
// NAME_blocks u8 [..., K/32, 16] and NAME_scales u8 [..., K/32]; compressed-tensors a module's
// weight_packed u8 [N, K/2] and weight_scale u8 [N, K/32]. Low nibble first in both.
// w = E2M1[q] * 2^(scale - 127); 255 is NaN.
#include <bit>

#include "kernels/check.h"
#include "runtime/weights/quantised/module_tensors.h"
#include "runtime/weights/quantised/schemes.h"

namespace hotset {
namespace {

constexpr int64_t kBlock = 32;

class Mxfp4Matrix : public QuantisedMatrix {
 public:
  Mxfp4Matrix(const StoredTensor& codes, const StoredTensor& scales, int64_t n, int64_t k,
              const std::string& scheme)
      : codes_(codes), scales_(scales) {
    check_elements(codes, n * k / 2);
    check_elements(scales, n * (k / kBlock));
    tensors_ = {&codes.info, &scales.info};
    n_ = n;
    k_ = k;
    form_.values = CodedForm::Values::kTable;
    form_.block = kBlock;
    form_.scale = ScaleType::kE8M0;
    form_.table = kE2m1;
    scheme_ = scheme;
  }

  void read(int64_t first_row, int64_t rows, const CodedRows& out,
            Scratch& scratch) const override {
    const int64_t blocks = k_ / kBlock;
    const auto raw = scratch.take<std::byte>(rows * k_ / 2);
    read_bytes(codes_.info, first_row * k_ / 2, raw);
    unpack_nibbles(raw.data(), rows * k_, false, out.codes);
    const auto scales = scratch.take<uint8_t>(rows * blocks);
    read_bytes(scales_.info, first_row * blocks, std::as_writable_bytes(scales));
    for (int64_t b = 0; b < rows * blocks; ++b) {
      if (scales[b] == 255) {
        refuse_tensor(scales_.info, "element " + std::to_string(first_row * blocks + b) +
                                        " is 255, which is NaN, expected at most 254");
      }
      const uint32_t bits = scales[b] == 0 ? 0x00400000u : uint32_t{scales[b]} << 23;
      out.scales[b] = std::bit_cast<float>(bits);
    }
  }

 private:
  static void check_elements(const StoredTensor& tensor, int64_t expected) {
    if (tensor.info.elements() == expected) return;
    refuse_tensor(tensor.info, "its shape is " + shape_text(tensor.info.dims) + ", expected " +
                                   std::to_string(expected) + " elements");
  }

  const StoredTensor &codes_, &scales_;
};

void check_whole_blocks(const std::string& module, int64_t k) {
  if (k % kBlock == 0) return;
  throw Error("module " + module + ": mxfp4 of rows of " + std::to_string(k) +
              " weights is not read, expected a multiple of 32");
}

class GptOss : public QuantisedScheme {
 public:
  explicit GptOss(const SafetensorsFolder& folder) : folder_(folder) {}

  std::unique_ptr<QuantisedMatrix> find(const std::string& module, int64_t n,
                                        int64_t k) const override {
    const ModuleTensors tensors(folder_, module);
    if (!tensors.has("_blocks")) return nullptr;
    check_whole_blocks(module, k);
    return std::make_unique<Mxfp4Matrix>(tensors.need("_blocks", {"U8"}),
                                         tensors.need("_scales", {"U8"}), n, k, "mxfp4");
  }

 private:
  const SafetensorsFolder& folder_;
};

}  // namespace

std::unique_ptr<QuantisedScheme> open_mxfp4(const JsonObject&, const SafetensorsFolder& folder) {
  return std::make_unique<GptOss>(folder);
}

std::unique_ptr<QuantisedMatrix> make_mxfp4_packed(const SafetensorsFolder& folder,
                                                   const std::string& module, int64_t n, int64_t k,
                                                   const CompressedWeights&) {
  const ModuleTensors tensors(folder, module);
  check_whole_blocks(module, k);
  return std::make_unique<Mxfp4Matrix>(tensors.need(".weight_packed", {"U8"}, {n, k / 2}),
                                       tensors.need(".weight_scale", {"U8"}, {n, k / kBlock}), n, k,
                                       "compressed-tensors mxfp4-pack-quantized");
}

}  // namespace hotset
