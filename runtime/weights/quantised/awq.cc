// AWQ as AutoAWQ packs it for its "gemm" kernels: qweight i32 [K, N/8] and qzeros i32 [G, N/8],
// nibble i of a word is column ORDER[i] of its 8; scales f16 [G, N]. w = (q - z) * scale.
#include "kernels/check.h"
#include "runtime/weights/quantised/module_tensors.h"
#include "runtime/weights/quantised/schemes.h"

namespace hotset {
namespace {

constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

class AwqMatrix : public QuantisedMatrix {
 public:
  AwqMatrix(const ModuleTensors& module, int64_t n, int64_t k, int64_t group)
      : groups_(group == 0 ? 1 : ceil_div(k, group)) {
    if (n % 8 != 0) {
      throw Error("module " + module.module() + ": it has " + std::to_string(n) +
                  " rows, expected a multiple of 8");
    }
    codes_ = &module.need(".qweight", {"I32"}, {k, n / 8});
    zeros_ = &module.need(".qzeros", {"I32"}, {groups_, n / 8});
    scales_ = &module.need(".scales", {"F16", "BF16", "F32"}, {groups_, n});
    tensors_ = {&codes_->info, &zeros_->info, &scales_->info};
    n_ = n;
    k_ = k;
    form_.block = group;
    form_.scale = scale_type(*scales_);
    form_.has_zeros = true;
    scheme_ = "awq, 4 bits";
  }

  void read(int64_t first_row, int64_t rows, const CodedRows& out,
            Scratch& scratch) const override {
    const int64_t first = first_row / 8, words = ceil_div(first_row + rows, 8) - first;
    const int64_t skip = first_row - first * 8;
    const auto raw = scratch.take<uint32_t>(k_ * words);
    read_columns(codes_->info, k_, n_ / 8, 4, first, words, std::as_writable_bytes(raw));
    for (int64_t w = 0; w < words; ++w) {
      spread_columns(raw.data() + w, words, k_, w * 8 - skip, rows, out.codes);
    }
    const auto raw_zeros = scratch.take<uint32_t>(groups_ * words);
    read_columns(zeros_->info, groups_, n_ / 8, 4, first, words, std::as_writable_bytes(raw_zeros));
    for (int64_t w = 0; w < words; ++w) {
      spread_columns(raw_zeros.data() + w, words, groups_, w * 8 - skip, rows,
                     reinterpret_cast<uint8_t*>(out.zeros));
    }
    read_scale_columns(*scales_, n_, first_row, rows, groups_, out.scales, scratch);
  }

 private:
  // A column of words, `stride` apart, becomes 8 rows from `first` on, `length` codes each; rows
  // outside [0, rows) are dropped.
  static void spread_columns(const uint32_t* words, int64_t stride, int64_t length, int64_t first,
                             int64_t rows, uint8_t* out) {
    constexpr int64_t kTile = 8;
    for (int64_t j = 0; j < length; j += kTile) {
      const int64_t count = std::min(kTile, length - j);
      uint32_t tile[kTile] = {};
      for (int64_t t = 0; t < count; ++t) tile[t] = words[(j + t) * stride];
      for (int i = 0; i < 8; ++i) {
        const int64_t row = first + kOrder[i];
        if (row < 0 || row >= rows) continue;
        uint8_t* const at = out + row * length + j;
        for (int64_t t = 0; t < count; ++t) at[t] = static_cast<uint8_t>(tile[t] >> 4 * i & 15);
      }
    }
  }

  const int64_t groups_;
  const StoredTensor *codes_, *zeros_, *scales_;
};

class Awq : public QuantisedScheme {
 public:
  Awq(const JsonObject& config, const SafetensorsFolder& folder) : folder_(folder) {
    const char* bits_key = config.find("bits") != nullptr ? "bits" : "w_bit";
    if (integer_in(config, bits_key, 1, 16) != 4) {
      config.fail(bits_key, "awq of other than 4 bits is not read");
    }
    const char* group_key = config.find("group_size") != nullptr ? "group_size" : "q_group_size";
    const int64_t group = config.integer(group_key);
    if (group != -1 && (group < 1 || group > 1 << 20)) {
      config.fail(group_key, "found " + std::to_string(group) + ", expected -1 or 1 and more");
    }
    group_ = group == -1 ? 0 : group;
    std::string version = config.find_string("version").value_or("gemm");
    for (char& c : version) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    if (version != "gemm") {
      config.fail("version",
                  "awq packed for \"" + printable(version) + "\" is not read, expected \"gemm\"");
    }
  }

  std::unique_ptr<QuantisedMatrix> find(const std::string& module, int64_t n,
                                        int64_t k) const override {
    const ModuleTensors tensors(folder_, module);
    if (!tensors.has(".qweight")) return nullptr;
    return std::make_unique<AwqMatrix>(tensors, n, k, group_);
  }

 private:
  const SafetensorsFolder& folder_;
  int64_t group_ = 0;
};

}  // namespace

std::unique_ptr<QuantisedScheme> open_awq(const JsonObject& config,
                                          const SafetensorsFolder& folder) {
  return std::make_unique<Awq>(config, folder);
}

}  // namespace hotset
