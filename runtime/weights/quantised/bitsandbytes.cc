// bitsandbytes. 4 bits (NF4, FP4): weight u8 [ceil(N*K/2), 1], the flattened matrix, high nibble
// first; blocks of `blocksize` over the flat array, so that they cross rows where K is no multiple
// of it; w = quant_map[q] * absmax[block]. Double quantisation stores absmax as u8: absmax =
// nested_quant_map[u8] * nested_absmax[block / nested_blocksize] + nested_offset, rounded twice.
// 8 bits (LLM.int8): weight i8 [N, K], SCB f32 [N]; w = (q * SCB) * (1/127 as the library has it).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/check.h"
#include "runtime/weights/quantised/module_tensors.h"
#include "runtime/weights/quantised/schemes.h"

namespace hotset {
namespace {

constexpr float kOneOver127 = 7.874015718698502e-3f;

class Int8Matrix : public QuantisedMatrix {
 public:
  Int8Matrix(const ModuleTensors& module, int64_t n, int64_t k)
      : codes_(module.need(".weight", {"I8"}, {n, k})), scales_(module.need(".SCB", {"F32"}, {n})) {
    if (module.has(".weight_format")) check_format(module.need(".weight_format", {"U8"}));
    tensors_ = {&codes_.info, &scales_.info};
    n_ = n;
    k_ = k;
    form_.bits = 8;
    form_.factor = CodedForm::Factor::kProductTimes;
    scheme_ = "bitsandbytes LLM.int8";
  }

  void read(int64_t first_row, int64_t rows, const CodedRows& out,
            Scratch& scratch) const override {
    read_bytes(codes_.info, first_row * k_,
               std::as_writable_bytes(std::span(out.codes, static_cast<size_t>(rows * k_))));
    read_scale_rows(scales_, first_row, rows, 1, out.scales, scratch);
    std::fill_n(out.factors, rows, kOneOver127);
  }

 private:
  static void check_format(const StoredTensor& format) {
    std::byte value{};
    read_bytes(format.info, 0, {&value, 1});
    if (value == std::byte{0}) return;
    refuse_tensor(format.info, "found " + std::to_string(std::to_integer<int>(value)) +
                                   ", expected 0: rows as they are");
  }

  const StoredTensor &codes_, &scales_;
};

// What the quant_state tensor's JSON says.
struct QuantState {
  std::string type;
  int64_t block = 0, nested_block = 0;  // nested 0: absmax is stored in float
  float nested_offset = 0;
};

QuantState read_state(const ModuleTensors& module, const StoredTensor& tensor, int64_t n,
                      int64_t k) {
  constexpr uint64_t kMost = 1 << 16;
  if (tensor.info.bytes > kMost) refuse_tensor(tensor.info, "has more than 65536 bytes of JSON");
  std::string text(tensor.info.bytes, '\0');
  read_bytes(tensor.info, 0, std::as_writable_bytes(std::span(text)));
  const std::string where = tensor.info.file->path() + ": tensor " + tensor.info.name;
  const nlohmann::json document = parse_json(text, where);
  const JsonObject object(document, where);
  QuantState state;
  state.type = object.find_string("quant_type").value_or("");
  if (state.type != "nf4" && state.type != "fp4") {
    object.fail("quant_type",
                "found \"" + printable(state.type) + "\", expected \"nf4\" or \"fp4\"");
  }
  const auto block_size = [&](const char* key) {
    const int64_t value = integer_in(object, key, 2, 1 << 20);
    if (value % 2 != 0) object.fail(key, "found " + std::to_string(value) + ", expected it even");
    return value;
  };
  state.block = block_size("blocksize");
  const nlohmann::json expected = {n, k};
  if (const auto* shape = object.find("shape"); shape == nullptr || *shape != expected) {
    object.fail("shape", "found " + (shape == nullptr ? "none" : printable(shape->dump())) +
                             ", expected " + expected.dump() + " (module " + module.module() + ")");
  }
  if (object.find("nested_blocksize") != nullptr) {
    state.nested_block = block_size("nested_blocksize");
    state.nested_offset = static_cast<float>(object.number("nested_offset"));
    if (!std::isfinite(state.nested_offset)) object.fail("nested_offset", "is not finite");
  }
  return state;
}

class FourBitMatrix : public QuantisedMatrix {
 public:
  FourBitMatrix(const ModuleTensors& module, const StoredTensor& state_tensor, int64_t n, int64_t k)
      : state_(read_state(module, state_tensor, n, k)),
        codes_(module.need(".weight", {"U8"}, {ceil_div(n * k, 2), 1})) {
    blocks_ = ceil_div(n * k, state_.block);
    const StoredTensor& map = module.need(".weight.quant_map", {"F32"}, {16});
    read_bytes(map.info, 0, std::as_writable_bytes(std::span(form_.table)));
    check_finite(map, form_.table);
    tensors_ = {&codes_.info};
    if (state_.nested_block > 0) {
      absmax_ = &module.need(".weight.absmax", {"U8"}, {blocks_});
      nested_absmax_ =
          &module.need(".weight.nested_absmax", {"F32"}, {ceil_div(blocks_, state_.nested_block)});
      nested_map_ = &module.need(".weight.nested_quant_map", {"F32"}, {256});
      tensors_.push_back(&nested_absmax_->info);
      tensors_.push_back(&nested_map_->info);
    } else {
      absmax_ = &module.need(".weight.absmax", {"F32"}, {blocks_});
    }
    tensors_.push_back(&absmax_->info);
    tensors_.push_back(&map.info);
    n_ = n;
    k_ = k;
    form_.values = CodedForm::Values::kTable;
    form_.block = std::gcd(state_.block, k);  // no block of a row crosses one of the flat array's
    scheme_ = "bitsandbytes " + std::string(state_.type == "nf4" ? "NF4" : "FP4") +
              (state_.nested_block > 0 ? ", double-quantised" : "");
  }

  void read(int64_t first_row, int64_t rows, const CodedRows& out,
            Scratch& scratch) const override {
    const int64_t first = first_row * k_, count = rows * k_;
    const int64_t skip = first % 2;  // a row may begin in the middle of a byte
    const auto raw = scratch.take<std::byte>((skip + count + 1) / 2);
    read_bytes(codes_.info, first / 2, raw);
    const std::byte* codes = raw.data();
    uint8_t* to = out.codes;
    if (skip != 0) {
      *to++ = std::to_integer<uint8_t>(*codes++ & std::byte{15});
    }
    unpack_nibbles(codes, count - skip, true, to);
    read_absmax(first, count, out.scales, scratch);
  }

 private:
  static void check_finite(const StoredTensor& map, std::span<const float> values) {
    for (const float value : values) {
      if (!std::isfinite(value)) refuse_tensor(map.info, "an entry is not finite");
    }
  }

  // The scale of each block of the rows, from those of the flat array's.
  void read_absmax(int64_t first, int64_t count, float* out, Scratch& scratch) const {
    const int64_t begin = first / state_.block;
    const int64_t blocks = ceil_div(first + count, state_.block) - begin;
    const auto absmax = scratch.take<float>(blocks);
    if (nested_map_ == nullptr) {
      read_scale_rows(*absmax_, begin, blocks, 1, absmax.data(), scratch);
    } else {
      read_nested(begin, blocks, absmax.data(), scratch);
    }
    for (int64_t b = 0; b < count / form_.block; ++b) {
      out[b] = absmax[(first + b * form_.block) / state_.block - begin];
    }
  }

  void read_nested(int64_t begin, int64_t blocks, float* out, Scratch& scratch) const {
    const int64_t first = begin / state_.nested_block;
    const int64_t count = ceil_div(begin + blocks, state_.nested_block) - first;
    const auto codes = scratch.take<uint8_t>(blocks);
    read_bytes(absmax_->info, begin, std::as_writable_bytes(codes));
    const auto map = scratch.take<float>(256), nested = scratch.take<float>(count);
    read_scale_rows(*nested_map_, 0, 256, 1, map.data(), scratch);
    read_scale_rows(*nested_absmax_, first, count, 1, nested.data(), scratch);
    for (int64_t b = 0; b < blocks; ++b) {
      const float product = map[codes[b]] * nested[(begin + b) / state_.nested_block - first];
      out[b] = product + state_.nested_offset;
    }
  }

  const QuantState state_;
  const StoredTensor& codes_;
  const StoredTensor *absmax_ = nullptr, *nested_absmax_ = nullptr, *nested_map_ = nullptr;
  int64_t blocks_ = 0;
};

class BitsAndBytes : public QuantisedScheme {
 public:
  explicit BitsAndBytes(const SafetensorsFolder& folder) : folder_(folder) {}

  std::unique_ptr<QuantisedMatrix> find(const std::string& module, int64_t n,
                                        int64_t k) const override {
    const ModuleTensors tensors(folder_, module);
    if (tensors.is_dtype(".weight", "I8")) return std::make_unique<Int8Matrix>(tensors, n, k);
    if (!tensors.is_dtype(".weight", "U8")) return nullptr;
    const std::string state = ".weight.quant_state.bitsandbytes__";
    const std::string type = tensors.has(state + "fp4") ? "fp4" : "nf4";
    return std::make_unique<FourBitMatrix>(tensors, tensors.need(state + type, {"U8"}), n, k);
  }

 private:
  const SafetensorsFolder& folder_;
};

}  // namespace

std::unique_ptr<QuantisedScheme> open_bitsandbytes(const JsonObject& config,
                                                   const SafetensorsFolder& folder) {
  const std::string storage = config.find_string("bnb_4bit_quant_storage").value_or("uint8");
  if (storage != "uint8") {
    config.fail("bnb_4bit_quant_storage",
                "found \"" + printable(storage) + "\", expected \"uint8\"");
  }
  return std::make_unique<BitsAndBytes>(folder);
}

}  // namespace hotset
