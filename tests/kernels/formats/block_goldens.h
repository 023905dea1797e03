// Reads tests/data/blocks (written by tests/make_block_goldens.py): blocks of each type and their
// float32 values by gguf-py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/formats/tensor_type.h"

namespace hotset {

inline constexpr TensorType kAllTypes[] = {
    TensorType::kF32,  TensorType::kF16,    TensorType::kBF16,   TensorType::kQ4_0,
    TensorType::kQ4_1, TensorType::kQ5_0,   TensorType::kQ5_1,   TensorType::kQ8_0,
    TensorType::kQ2_K, TensorType::kQ3_K,   TensorType::kQ4_K,   TensorType::kQ5_K,
    TensorType::kQ6_K, TensorType::kIQ4_NL, TensorType::kIQ4_XS, TensorType::kMXFP4,
};

struct BlockGoldens {
  int64_t count = 0;  // blocks
  int64_t block_bytes = 0;
  int64_t elements = 0;  // a block
  std::vector<std::byte> blocks;
  std::vector<float> values;
};

// `suffix`: "" or ".quantised".
inline BlockGoldens read_goldens(TensorType type, const std::string& suffix = "") {
  const std::string path =
      HOTSET_SOURCE_DIR "/tests/data/blocks/" + std::string(info(type).name) + suffix + ".bin";
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  HOTSET_CHECK(bytes.size() > 12, path.c_str());
  uint32_t header[3];
  std::memcpy(header, bytes.data(), sizeof header);
  BlockGoldens goldens = {header[0], header[1], header[2], {}, {}};
  goldens.blocks.resize(static_cast<size_t>(goldens.count * goldens.block_bytes));
  goldens.values.resize(static_cast<size_t>(goldens.count * goldens.elements));
  const size_t values_bytes = goldens.values.size() * sizeof(float);
  HOTSET_CHECK(bytes.size() == sizeof header + goldens.blocks.size() + values_bytes, path.c_str());
  std::memcpy(goldens.blocks.data(), bytes.data() + sizeof header, goldens.blocks.size());
  std::memcpy(goldens.values.data(), bytes.data() + sizeof header + goldens.blocks.size(),
              values_bytes);
  return goldens;
}

// Sets byte `at` of a block's f16 (or bf16, f32, e8m0) field such that the field is not finite.
// Where those fields lie (ggml-common.h) is written out once more here.
struct FloatField {
  TensorType type;
  int at;
  int bytes;
};
inline constexpr FloatField kFloatFields[] = {
    {TensorType::kF32, 0, 4},    {TensorType::kF16, 0, 2},    {TensorType::kBF16, 0, 2},
    {TensorType::kQ4_0, 0, 2},   {TensorType::kQ4_1, 0, 2},   {TensorType::kQ4_1, 2, 2},
    {TensorType::kQ5_0, 0, 2},   {TensorType::kQ5_1, 0, 2},   {TensorType::kQ5_1, 2, 2},
    {TensorType::kQ8_0, 0, 2},   {TensorType::kQ2_K, 80, 2},  {TensorType::kQ2_K, 82, 2},
    {TensorType::kQ3_K, 108, 2}, {TensorType::kQ4_K, 0, 2},   {TensorType::kQ4_K, 2, 2},
    {TensorType::kQ5_K, 0, 2},   {TensorType::kQ5_K, 2, 2},   {TensorType::kQ6_K, 208, 2},
    {TensorType::kIQ4_NL, 0, 2}, {TensorType::kIQ4_XS, 0, 2}, {TensorType::kMXFP4, 0, 1},
};
// A NaN or an infinity of the field's type, in its upper bytes; the lower ones are left alone.
inline void spoil(std::byte* block, const FloatField& field, bool negative) {
  std::byte* top = block + field.at + field.bytes - 1;
  *top = field.bytes == 1 || negative ? std::byte{0xff} : std::byte{0x7f};
  if (field.bytes > 1) top[-1] |= std::byte{0x80};
}

}  // namespace hotset
