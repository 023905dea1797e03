// Decoding rows to float32, one plain loop a type and in the order of operations of gguf-py's
// quants.py. It is the oracle of the packed layouts, so it shares no code extraction with the
// packers (only the bit-packed scales and tables of block_layout.h).
#include <cstring>

#include "kernels/check.h"
#include "kernels/formats/block_layout.h"
#include "kernels/formats/tensor_type.h"

namespace hotset {
namespace {

float half_at(const std::byte* bytes) {
  return half_to_float(load<uint16_t>(bytes));
}
int byte_at(const std::byte* bytes, int i) {
  return std::to_integer<int>(bytes[i]);
}
int signed_byte_at(const std::byte* bytes, int i) {
  return static_cast<int8_t>(bytes[i]);
}

// Element j of 16 bytes in the Q4_0 order.
int nibble_at(const std::byte* bytes, int j) {
  return j < 16 ? byte_at(bytes, j) & 15 : byte_at(bytes, j - 16) >> 4;
}

void dequantise_q4_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(nibble_at(block + 2, j) - 8);
}

void dequantise_q4_1(const std::byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(nibble_at(block + 4, j)) + m;
}

void dequantise_q5_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  const auto high = load<uint32_t>(block + 2);
  for (int j = 0; j < 32; ++j) {
    const int q = nibble_at(block + 6, j) + 16 * static_cast<int>(high >> j & 1);
    out[j] = d * static_cast<float>(q - 16);
  }
}

void dequantise_q5_1(const std::byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  const auto high = load<uint32_t>(block + 4);
  for (int j = 0; j < 32; ++j) {
    const int q = nibble_at(block + 8, j) + 16 * static_cast<int>(high >> j & 1);
    out[j] = d * static_cast<float>(q) + m;
  }
}

void dequantise_q8_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(signed_byte_at(block + 2, j));
}

void dequantise_q2_k(const std::byte* block, float* out) {
  const float d = half_at(block + 80), dmin = half_at(block + 82);
  for (int s = 0; s < 16; ++s) {
    const float scale = d * static_cast<float>(byte_at(block, s) & 15);
    const float offset = dmin * static_cast<float>(byte_at(block, s) >> 4);
    for (int j = 16 * s; j < 16 * s + 16; ++j) {
      const int byte = byte_at(block + 16, j / 128 * 32 + j % 32);
      out[j] = scale * static_cast<float>(byte >> j % 128 / 32 * 2 & 3) - offset;
    }
  }
}

void dequantise_q3_k(const std::byte* block, float* out) {
  const float d = half_at(block + 108);
  int8_t scales[16];
  unpack_q3_scales(block + 96, scales);
  for (int j = 0; j < 256; ++j) {
    const int low = byte_at(block + 32, j / 128 * 32 + j % 32) >> j % 128 / 32 * 2 & 3;
    const int high = byte_at(block, j % 32) >> j / 32 & 1;
    const int s = j / 16;
    out[j] = d * scales[s] * static_cast<float>(low - (high ? 0 : 4));
  }
}

void dequantise_q4_k(const std::byte* block, float* out) {
  const float d = half_at(block), dmin = half_at(block + 2);
  uint8_t scales[8], offsets[8];
  unpack_k_scales(block + 4, scales, offsets);
  for (int j = 0; j < 256; ++j) {
    const int s = j / 32;
    const int q = byte_at(block + 16, s / 2 * 32 + j % 32) >> s % 2 * 4 & 15;
    out[j] = d * scales[s] * static_cast<float>(q) - dmin * offsets[s];
  }
}

void dequantise_q5_k(const std::byte* block, float* out) {
  const float d = half_at(block), dmin = half_at(block + 2);
  uint8_t scales[8], offsets[8];
  unpack_k_scales(block + 4, scales, offsets);
  for (int j = 0; j < 256; ++j) {
    const int s = j / 32;
    const int low = byte_at(block + 48, s / 2 * 32 + j % 32) >> s % 2 * 4 & 15;
    const int high = byte_at(block + 16, j % 32) >> s & 1;
    out[j] = d * scales[s] * static_cast<float>(low + 16 * high) - dmin * offsets[s];
  }
}

void dequantise_q6_k(const std::byte* block, float* out) {
  const float d = half_at(block + 208);
  for (int j = 0; j < 256; ++j) {
    const int half = j / 128, run = j % 128 / 32;
    const int low = byte_at(block, 64 * half + j % 64) >> run / 2 * 4 & 15;
    const int high = byte_at(block + 128, 32 * half + j % 32) >> 2 * run & 3;
    const float scale = d * static_cast<float>(signed_byte_at(block + 192, j / 16));
    out[j] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

void dequantise_iq4_nl(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (int j = 0; j < 32; ++j) out[j] = d * kIq4Table[nibble_at(block + 2, j)];
}

void dequantise_iq4_xs(const std::byte* block, float* out) {
  const float d = half_at(block);
  int8_t scales[8];
  unpack_iq4_xs_scales(block, scales);
  for (int j = 0; j < 256; ++j) {
    const int s = j / 32;
    out[j] = d * scales[s] * kIq4Table[nibble_at(block + 8 + j / 32 * int64_t{16}, j % 32)];
  }
}

void dequantise_mxfp4(const std::byte* block, float* out) {
  const float scale = e8m0_scale(std::to_integer<uint8_t>(block[0]));
  for (int j = 0; j < 32; ++j) out[j] = scale * kMxfp4Table[nibble_at(block + 1, j)];
}

void dequantise_f16(const std::byte* bits, float* out) {
  *out = half_at(bits);
}
void dequantise_bf16(const std::byte* bits, float* out) {
  *out = bf16_to_float(load<uint16_t>(bits));
}

template <void (*Decode)(const std::byte*, float*)>
void decode_row(TensorType type, const std::byte* blocks, float* out, int64_t count) {
  const TensorTypeInfo& format = info(type);
  for (int64_t j = 0; j < count; j += format.block_size, blocks += format.block_bytes) {
    Decode(blocks, out + j);
  }
}

}  // namespace

void dequantise_row(TensorType type, const void* blocks, float* out, int64_t count) {
  HOTSET_CHECK(count % info(type).block_size == 0, "a row is a whole number of blocks");
  const auto* bytes = static_cast<const std::byte*>(blocks);
  switch (type) {
    case TensorType::kF32:
      std::memcpy(out, blocks, static_cast<size_t>(count) * sizeof(float));
      return;
    case TensorType::kF16:
      return decode_row<dequantise_f16>(type, bytes, out, count);
    case TensorType::kBF16:
      return decode_row<dequantise_bf16>(type, bytes, out, count);
    case TensorType::kQ4_0:
      return decode_row<dequantise_q4_0>(type, bytes, out, count);
    case TensorType::kQ4_1:
      return decode_row<dequantise_q4_1>(type, bytes, out, count);
    case TensorType::kQ5_0:
      return decode_row<dequantise_q5_0>(type, bytes, out, count);
    case TensorType::kQ5_1:
      return decode_row<dequantise_q5_1>(type, bytes, out, count);
    case TensorType::kQ8_0:
      return decode_row<dequantise_q8_0>(type, bytes, out, count);
    case TensorType::kQ2_K:
      return decode_row<dequantise_q2_k>(type, bytes, out, count);
    case TensorType::kQ3_K:
      return decode_row<dequantise_q3_k>(type, bytes, out, count);
    case TensorType::kQ4_K:
      return decode_row<dequantise_q4_k>(type, bytes, out, count);
    case TensorType::kQ5_K:
      return decode_row<dequantise_q5_k>(type, bytes, out, count);
    case TensorType::kQ6_K:
      return decode_row<dequantise_q6_k>(type, bytes, out, count);
    case TensorType::kIQ4_NL:
      return decode_row<dequantise_iq4_nl>(type, bytes, out, count);
    case TensorType::kIQ4_XS:
      return decode_row<dequantise_iq4_xs>(type, bytes, out, count);
    case TensorType::kMXFP4:
      return decode_row<dequantise_mxfp4>(type, bytes, out, count);
  }
  HOTSET_CHECK(false, "a TensorType that is none of its enumerators");
}

}  // namespace hotset
