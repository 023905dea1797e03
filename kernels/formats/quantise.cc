// Encoding rows as ggml's reference quantisers do, bit for bit, so that a file made by us equals
// one made from the same floats elsewhere.
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/formats/block_layout.h"
#include "kernels/formats/tensor_type.h"

namespace hotset {
namespace {

// Truncates to an integer in [low, high]. Values far outside come only from a block whose scale's
// reciprocal overflowed: its scale is 0 in f16, so the code does not matter, but the conversion
// must be defined.
int truncate(float value, int low, int high) {
  if (!(std::fabs(value) < 256.0f)) return 0;
  const int q = static_cast<int>(value);
  return q < low ? low : q > high ? high : q;
}

void quantise_q4_0(const float* x, std::byte* block) {
  float amax = 0, peak = 0;
  for (int j = 0; j < 32; ++j) {
    if (std::fabs(x[j]) > amax) {
      amax = std::fabs(x[j]);
      peak = x[j];
    }
  }
  const float d = peak / -8;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  store(block, float_to_half(d));
  for (int j = 0; j < 16; ++j) {
    const int low = truncate(x[j] * inverse + 8.5f, 0, 15);
    const int high = truncate(x[j + 16] * inverse + 8.5f, 0, 15);
    block[2 + j] = static_cast<std::byte>(low | high << 4);
  }
}

void quantise_q8_0(const float* x, std::byte* block) {
  float amax = 0;
  for (int j = 0; j < 32; ++j) amax = std::fabs(x[j]) > amax ? std::fabs(x[j]) : amax;
  const float d = amax / 127;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  store(block, float_to_half(d));
  for (int j = 0; j < 32; ++j) {
    const int q = truncate(std::round(x[j] * inverse), -128, 127);
    block[2 + j] = static_cast<std::byte>(q);
  }
}

}  // namespace

void quantise_row(TensorType type, const float* row, void* blocks, int64_t count) {
  const TensorTypeInfo& format = info(type);
  HOTSET_CHECK(count % format.block_size == 0, "a row is a whole number of blocks");
  auto* bytes = static_cast<std::byte*>(blocks);
  if (type == TensorType::kF32) {
    std::memcpy(blocks, row, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t j = 0; j < count; j += format.block_size, bytes += format.block_bytes) {
    switch (type) {
      case TensorType::kF16:
        store(bytes, float_to_half(row[j]));
        break;
      case TensorType::kBF16:
        store(bytes, float_to_bf16(row[j]));
        break;
      case TensorType::kQ4_0:
        quantise_q4_0(row + j, bytes);
        break;
      case TensorType::kQ8_0:
        quantise_q8_0(row + j, bytes);
        break;
      default:
        HOTSET_CHECK(false, "quantise_row writes F32, F16, BF16, Q4_0 and Q8_0 only");
    }
  }
}

}  // namespace hotset
