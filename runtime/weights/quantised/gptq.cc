// GPTQ (AutoGPTQ, GPTQModel): qweight i32 [K * b / 32, N], b bits a code, low ones first, along K;
// qzeros i32 [G, N * b / 32] along N; scales f16 [G, N]; g_idx i32 [K]. w = scale * (q - z).
// Checkpoint format "gptq" (v1) stores z less one, subtracted from the whole word, so that a zero
// point of 0 has borrowed from its neighbour; "gptq_v2" stores z.
#include <cstring>

#include "kernels/check.h"
#include "runtime/weights/quantised/module_tensors.h"
#include "runtime/weights/quantised/schemes.h"

namespace hotset {
namespace {

struct GptqConfig {
  int64_t bits = 4, group = 0;  // group 0: all of a row
  bool is_v1 = true, has_order = false;
};

// Subtracted from each word of v1's zero points: 1 in each field.
uint32_t ones_of(int64_t bits) {
  uint32_t ones = 0;
  for (int64_t at = 0; at < 32; at += bits) ones |= uint32_t{1} << at;
  return ones;
}

class GptqMatrix : public QuantisedMatrix {
 public:
  GptqMatrix(const ModuleTensors& module, int64_t n, int64_t k, const GptqConfig& config)
      : config_(config), group_(config.group == 0 ? k : config.group) {
    const int64_t per_word = 32 / config.bits, groups = ceil_div(k, group_);
    if (k % per_word != 0 || n % per_word != 0) {
      throw Error("module " + module.module() + ": its " + std::to_string(n) + " x " +
                  std::to_string(k) + " weights do not fill words of " + std::to_string(per_word) +
                  " codes, expected multiples");
    }
    codes_ = &module.need(".qweight", {"I32"}, {k / per_word, n});
    zeros_ = &module.need(".qzeros", {"I32"}, {groups, n / per_word});
    scales_ = &module.need(".scales", {"F16", "BF16", "F32"}, {groups, n});
    tensors_ = {&codes_->info, &zeros_->info, &scales_->info};
    if (module.has(".g_idx")) {
      g_idx_ = &module.need(".g_idx", {"I32"}, {k});
      tensors_.push_back(&g_idx_->info);
    } else if (config.has_order) {
      module.need(".g_idx", {"I32"}, {k});  // says that it is missing
    }
    n_ = n;
    k_ = k;
    form_.bits = config.bits == 8 ? 8 : 4;
    form_.block = config.group == 0 ? 0 : config.group;
    form_.scale = scale_type(*scales_);
    form_.has_zeros = true;
    form_.has_order = config.has_order;
    scheme_ = "gptq " + std::string(config.is_v1 ? "v1" : "v2") + ", " +
              std::to_string(config.bits) + " bits" + (config.has_order ? ", act-order" : "");
  }

  void read(int64_t first_row, int64_t rows, const CodedRows& out,
            Scratch& scratch) const override {
    if (g_idx_ != nullptr) read_order(out.order, scratch);
    read_codes(first_row, rows, out, scratch);
    read_zeros(first_row, rows, out, scratch);
    read_scale_columns(*scales_, n_, first_row, rows, form_.blocks(k_), out.scales, scratch);
  }

 private:
  void read_order(uint32_t* order, Scratch& scratch) const {
    const auto groups_of = scratch.take<int32_t>(k_);
    read_bytes(g_idx_->info, 0, std::as_writable_bytes(groups_of));
    order_by_group(g_idx_->info, groups_of, group_, order, scratch);
    if (form_.has_order) return;
    for (int64_t j = 0; j < k_; ++j) {
      if (order[j] == j) continue;
      refuse_tensor(g_idx_->info, "column " + std::to_string(j) +
                                      " is out of order, but desc_act " +
                                      "is false, expected groups of " + std::to_string(group_) +
                                      " columns in order");
    }
  }

  void read_codes(int64_t first_row, int64_t rows, const CodedRows& out, Scratch& scratch) const {
    const int64_t per_word = 32 / config_.bits, words = k_ / per_word;
    const auto raw = scratch.take<uint32_t>(words * rows);
    read_columns(codes_->info, words, n_, 4, first_row, rows, std::as_writable_bytes(raw));
    // In tiles of 8 rows, a cache line of each in use: rows lie powers of two apart.
    for (int64_t tile = 0; tile < rows; tile += 8) {
      const int64_t end = std::min(tile + 8, rows);
      for (int64_t w = 0; w < words; ++w) {
        for (int64_t r = tile; r < end; ++r)
          spread(raw[w * rows + r], out.codes + r * k_ + w * per_word);
      }
    }
    if (!form_.has_order) return;
    const auto sorted = scratch.take<uint8_t>(k_);
    for (int64_t r = 0; r < rows; ++r) {
      uint8_t* const row = out.codes + r * k_;
      for (int64_t j = 0; j < k_; ++j) sorted[j] = row[out.order[j]];
      std::memcpy(row, sorted.data(), sorted.size());
    }
  }

  // A word's codes, one a byte.
  void spread(uint32_t word, uint8_t* out) const {
    if (config_.bits == 4) {
      uint64_t x = word;
      x = (x | x << 16) & 0x0000ffff0000ffff;
      x = (x | x << 8) & 0x00ff00ff00ff00ff;
      x = (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
      std::memcpy(out, &x, sizeof x);
    } else if (config_.bits == 8) {
      const uint32_t x = word ^ 0x80808080;  // q - 128, which int8 holds
      std::memcpy(out, &x, sizeof x);
    } else {
      for (int i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>(word >> 2 * i & 3);
    }
  }

  void read_zeros(int64_t first_row, int64_t rows, const CodedRows& out, Scratch& scratch) const {
    const int64_t bits = config_.bits, per_word = 32 / bits, groups = form_.blocks(k_);
    const int64_t first = first_row / per_word;
    const int64_t words = ceil_div(first_row + rows, per_word) - first;
    const auto raw = scratch.take<uint32_t>(groups * words);
    read_columns(zeros_->info, groups, n_ / per_word, 4, first, words, std::as_writable_bytes(raw));
    const uint32_t one = config_.is_v1 ? ones_of(bits) : 0, mask = (uint32_t{1} << bits) - 1;
    const int bias = bits == 8 ? 128 : 0;
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t column = first_row + r;
        const uint32_t word = raw[g * words + column / per_word - first] + one;
        const auto zero = static_cast<int>(word >> bits * (column % per_word) & mask);
        out.zeros[r * groups + g] = static_cast<int8_t>(zero - bias);
      }
    }
  }

  const GptqConfig config_;
  const int64_t group_;
  const StoredTensor *codes_, *zeros_, *scales_, *g_idx_ = nullptr;
};

class Gptq : public QuantisedScheme {
 public:
  Gptq(const JsonObject& config, const SafetensorsFolder& folder) : folder_(folder) {
    config_.bits = integer_in(config, "bits", 1, 8);
    if (config_.bits != 2 && config_.bits != 4 && config_.bits != 8) {
      config.fail("bits", "gptq of " + std::to_string(config_.bits) +
                              " bits is not read, expected 2, 4 or 8");
    }
    const int64_t group = config.find_integer("group_size").value_or(-1);
    if (group != -1 && (group < 1 || group > 1 << 20)) {
      config.fail("group_size", "found " + std::to_string(group) + ", expected -1 or 1 and more");
    }
    config_.group = group == -1 ? 0 : group;
    const std::string format = config.find_string("checkpoint_format").value_or("gptq");
    if (format != "gptq" && format != "gptq_v2") {
      config.fail("checkpoint_format",
                  "found \"" + printable(format) + "\", expected \"gptq\" or \"gptq_v2\"");
    }
    config_.is_v1 = format == "gptq";
    // One group has no order: every column is in it.
    config_.has_order = config.find_boolean("desc_act").value_or(false) && config_.group != 0;
  }

  std::unique_ptr<QuantisedMatrix> find(const std::string& module, int64_t n,
                                        int64_t k) const override {
    const ModuleTensors tensors(folder_, module);
    if (!tensors.has(".qweight")) return nullptr;
    return std::make_unique<GptqMatrix>(tensors, n, k, config_);
  }

 private:
  const SafetensorsFolder& folder_;
  GptqConfig config_;
};

}  // namespace

std::unique_ptr<QuantisedScheme> open_gptq(const JsonObject& config,
                                           const SafetensorsFolder& folder) {
  return std::make_unique<Gptq>(config, folder);
}

}  // namespace hotset
