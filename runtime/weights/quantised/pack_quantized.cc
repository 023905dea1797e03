// compressed-tensors' pack-quantized: weight_packed i32 [N, ceil(K * b / 32)], b bits a code along
// K, low ones first, stored as q + 2^(b-1); weight_scale [N, G]; weight_zero_point i32
// [ceil(N * b / 32), G], packed likewise along N; weight_g_idx i32 [K]; weight_shape i64 [2].
// w = (q - z) * scale. Codes are dense across words, but early versions of the library filled each
// word with whole codes (b = 3): the width tells.
#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "runtime/weights/quantised/module_tensors.h"
#include "runtime/weights/quantised/schemes.h"

namespace hotset {
namespace {

// Where code i lies in a run of words.
struct BitPacking {
  int64_t bits = 4;
  bool is_padded = false;  // words hold whole codes

  int64_t words(int64_t count) const {
    return is_padded ? ceil_div(count, 32 / bits) : ceil_div(count * bits, 32);
  }
  // The first bit of code i.
  int64_t bit(int64_t i) const {
    const int64_t per_word = 32 / bits;
    return is_padded ? i / per_word * 32 + i % per_word * bits : i * bits;
  }
  // The code at that bit of `words`, which lie `stride` apart.
  uint32_t code(const uint32_t* words, int64_t stride, int64_t bit) const {
    const int64_t word = bit / 32, shift = bit % 32;
    uint64_t both = words[word * stride];
    if (shift + bits > 32) both |= uint64_t{words[(word + 1) * stride]} << 32;
    return static_cast<uint32_t>(both >> shift) & ((uint32_t{1} << bits) - 1);
  }
};

class PackQuantizedMatrix : public QuantisedMatrix {
 public:
  PackQuantizedMatrix(const ModuleTensors& module, int64_t n, int64_t k,
                      const CompressedWeights& weights)
      : codes_(module.need(".weight_packed", {"I32"}, {n, -1})),
        groups_(weights.group == 0 ? 1 : ceil_div(k, weights.group)),
        packing_(packing_of(codes_, k, weights.bits)),
        scales_(module.need(".weight_scale", {"F16", "BF16", "F32"}, {n, groups_})) {
    check_shape(module.need(".weight_shape", {"I64"}, {2}), n, k);
    tensors_ = {&codes_.info, &scales_.info};
    if (module.has(".weight_zero_point")) {
      const BitPacking dense = {weights.bits, false}, padded = {weights.bits, true};
      zeros_ = &module.need(".weight_zero_point", {"I32"}, {-1, groups_});
      zero_packing_ = zeros_->info.dims[0] == dense.words(n) ? dense : padded;
      module.need(".weight_zero_point", {"I32"}, {zero_packing_.words(n), groups_});
      tensors_.push_back(&zeros_->info);
    }
    if (module.has(".weight_g_idx")) {
      g_idx_ = &module.need(".weight_g_idx", {"I32"}, {k});
      tensors_.push_back(&g_idx_->info);
    }
    n_ = n;
    k_ = k;
    const bool is_byte = weights.bits == 8;
    form_.bits = is_byte ? 8 : 4;
    form_.block = weights.group;
    form_.scale = scale_type(scales_);
    form_.has_zeros = zeros_ != nullptr;
    form_.zero = is_byte ? 0 : 1 << (weights.bits - 1);
    form_.has_order = g_idx_ != nullptr && weights.group > 0;
    scheme_ = "compressed-tensors pack-quantized, " + std::to_string(weights.bits) + " bits" +
              (form_.has_zeros ? ", asymmetric" : "") + (form_.has_order ? ", act-order" : "");
  }

  void read(int64_t first_row, int64_t rows, const CodedRows& out,
            Scratch& scratch) const override {
    const int64_t words = packing_.words(k_);
    const auto raw = scratch.take<uint32_t>(rows * words);
    read_bytes(codes_.info, first_row * words * 4, std::as_writable_bytes(raw));
    for (int64_t r = 0; r < rows; ++r) unpack_row(raw.data() + r * words, out.codes + r * k_);
    if (form_.has_order) sort_columns(rows, out, scratch);
    read_scale_rows(scales_, first_row, rows, groups_, out.scales, scratch);
    if (zeros_ != nullptr) read_zeros(first_row, rows, out.zeros, scratch);
  }

 private:
  static BitPacking packing_of(const StoredTensor& codes, int64_t k, int64_t bits) {
    for (const BitPacking& packing : {BitPacking{bits, false}, BitPacking{bits, true}}) {
      if (codes.info.dims[1] == packing.words(k)) return packing;
    }
    refuse_tensor(codes.info, "its shape is " + shape_text(codes.info.dims) + ", expected " +
                                  std::to_string(BitPacking{bits, false}.words(k)) +
                                  " words a row for " + std::to_string(k) + " codes of " +
                                  std::to_string(bits) + " bits");
  }

  static void check_shape(const StoredTensor& tensor, int64_t n, int64_t k) {
    int64_t shape[2];
    read_bytes(tensor.info, 0, std::as_writable_bytes(std::span(shape)));
    if (shape[0] == n && shape[1] == k) return;
    refuse_tensor(tensor.info,
                  "found " + shape_text(shape) + ", expected " + shape_text(std::array{n, k}));
  }

  void unpack_row(const uint32_t* words, uint8_t* out) const {
    if (packing_.bits == 4) {
      return unpack_nibbles(reinterpret_cast<const std::byte*>(words), k_, false, out);
    }
    if (packing_.bits == 8) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(words);
      for (int64_t j = 0; j < k_; ++j) out[j] = bytes[j] ^ 0x80;  // q itself, as int8
      return;
    }
    for (int64_t j = 0; j < k_; ++j)
      out[j] = static_cast<uint8_t>(packing_.code(words, 1, packing_.bit(j)));
  }

  void sort_columns(int64_t rows, const CodedRows& out, Scratch& scratch) const {
    const auto groups_of = scratch.take<int32_t>(k_);
    read_bytes(g_idx_->info, 0, std::as_writable_bytes(groups_of));
    order_by_group(g_idx_->info, groups_of, form_.block, out.order, scratch);
    const auto sorted = scratch.take<uint8_t>(k_);
    for (int64_t r = 0; r < rows; ++r) {
      uint8_t* const row = out.codes + r * k_;
      for (int64_t j = 0; j < k_; ++j) sorted[j] = row[out.order[j]];
      std::memcpy(row, sorted.data(), sorted.size());
    }
  }

  void read_zeros(int64_t first_row, int64_t rows, int8_t* out, Scratch& scratch) const {
    const BitPacking& packing = zero_packing_;
    const int64_t begin = packing.bit(first_row) / 32;
    const int64_t end = ceil_div(packing.bit(first_row + rows - 1) + packing.bits, 32);
    const auto raw = scratch.take<uint32_t>((end - begin) * groups_);
    read_bytes(zeros_->info, begin * groups_ * 4, std::as_writable_bytes(raw));
    const int bias = packing_.bits == 8 ? 128 : 0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t g = 0; g < groups_; ++g) {
        const uint32_t zero =
            packing.code(raw.data() + g, groups_, packing.bit(first_row + r) - begin * 32);
        out[r * groups_ + g] = static_cast<int8_t>(static_cast<int>(zero) - bias);
      }
    }
  }

  const StoredTensor& codes_;
  const int64_t groups_;
  const BitPacking packing_;
  const StoredTensor& scales_;
  BitPacking zero_packing_;
  const StoredTensor *zeros_ = nullptr, *g_idx_ = nullptr;
};

}  // namespace

std::unique_ptr<QuantisedMatrix> make_pack_quantized(const SafetensorsFolder& folder,
                                                     const std::string& module, int64_t n,
                                                     int64_t k, const CompressedWeights& weights) {
  if (weights.type != "int" || weights.bits < 2 || (weights.bits > 4 && weights.bits != 8)) {
    throw Error("module " + module + ": compressed-tensors pack-quantized of " +
                std::to_string(weights.bits) + " bits (" + printable(weights.type) +
                ") is not read, expected int of 2, 3, 4 or 8 bits");
  }
  return std::make_unique<PackQuantizedMatrix>(ModuleTensors(folder, module), n, k, weights);
}

}  // namespace hotset
