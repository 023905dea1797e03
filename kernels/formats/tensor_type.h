// Element and block types of weights as files store them: ggml's type ids and names, and
// safetensors' dtypes mapped onto them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace hotset {

enum class TensorType : uint32_t {  // values are ggml's ids
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kIQ4_XS = 23,
  kBF16 = 30,
  kMXFP4 = 39,
};

struct TensorTypeInfo {
  TensorType type;
  std::string_view name;  // as llama.cpp prints it: "Q4_0"
  int block_size;         // elements a block; a row is a whole number of blocks
  int block_bytes;
};

// The readable type with this ggml id, or nothing.
const TensorTypeInfo* find_tensor_type(uint32_t ggml_id);
// The name of a ggml id that we know of but do not read ("IQ2_XXS", "Q8_K", "Q4_2 (removed)"), or
// "".
std::string_view unreadable_type_name(uint32_t ggml_id);

const TensorTypeInfo& info(TensorType type);
inline int64_t row_bytes(TensorType type, int64_t elements) {
  return elements / info(type).block_size * info(type).block_bytes;
}

// Decodes `count` elements (a multiple of the block) to float32 by the operations of gguf-py's
// quants.py in their order: the oracle of every packed layout, and how embedding rows are read.
void dequantise_row(TensorType type, const void* blocks, float* out, int64_t count);

// The index of the first block of the row whose scale (or element, for float types) is not finite,
// or -1.
int64_t first_not_finite(TensorType type, const void* blocks, int64_t count);

// Encodes a row as ggml's reference quantisers do: kQ4_0, kQ8_0, kF16, kBF16 or kF32.
void quantise_row(TensorType type, const float* row, void* blocks, int64_t count);

float half_to_float(uint16_t half);
uint16_t float_to_half(float value);  // round to nearest even
inline float bf16_to_float(uint16_t bits) {
  return __builtin_bit_cast(float, uint32_t{bits} << 16);
}
uint16_t float_to_bf16(float value);  // round to nearest even

}  // namespace hotset
