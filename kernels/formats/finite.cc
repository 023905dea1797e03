// Looks for blocks whose scale, or float elements, are not finite: such a weight would poison every
// sum it enters, so packing refuses it. Runs over every byte that is packed: branch-free scans
// first, the position only once something was found.
#include "kernels/check.h"
#include "kernels/formats/block_layout.h"
#include "kernels/formats/tensor_type.h"

namespace hotset {
namespace {

bool half_is_bad(const std::byte* at) {
  return (load<uint16_t>(at) & 0x7c00) == 0x7c00;
}
bool bf16_is_bad(const std::byte* at) {
  return (load<uint16_t>(at) & 0x7f80) == 0x7f80;
}
bool f32_is_bad(const std::byte* at) {
  return (load<uint32_t>(at) & 0x7f800000) == 0x7f800000;
}
bool e8m0_is_bad(const std::byte* at) {
  return *at == std::byte{255};
}
// Blocks with two halves side by side: d and m, or d and dmin.
bool half_pair_is_bad(const std::byte* at) {
  return half_is_bad(at) || half_is_bad(at + 2);
}

template <int kBlockBytes, int kOffset, bool (*is_bad)(const std::byte*)>
int64_t scan(const std::byte* blocks, int64_t count) {
  constexpr int64_t kChunk = 256;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = begin + kChunk < count ? begin + kChunk : count;
    unsigned any = 0;
    for (int64_t i = begin; i < end; ++i) any |= is_bad(blocks + i * kBlockBytes + kOffset);
    if (any == 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      if (is_bad(blocks + i * kBlockBytes + kOffset)) return i;
    }
  }
  return -1;
}

}  // namespace

int64_t first_not_finite(TensorType type, const void* blocks, int64_t count) {
  HOTSET_CHECK(count % info(type).block_size == 0, "a row is a whole number of blocks");
  const auto* bytes = static_cast<const std::byte*>(blocks);
  const int64_t n = count / info(type).block_size;
  switch (type) {
    case TensorType::kF32:
      return scan<4, 0, f32_is_bad>(bytes, n);
    case TensorType::kF16:
      return scan<2, 0, half_is_bad>(bytes, n);
    case TensorType::kBF16:
      return scan<2, 0, bf16_is_bad>(bytes, n);
    case TensorType::kQ4_0:
    case TensorType::kIQ4_NL:
      return scan<18, 0, half_is_bad>(bytes, n);
    case TensorType::kQ4_1:
      return scan<20, 0, half_pair_is_bad>(bytes, n);
    case TensorType::kQ5_0:
      return scan<22, 0, half_is_bad>(bytes, n);
    case TensorType::kQ5_1:
      return scan<24, 0, half_pair_is_bad>(bytes, n);
    case TensorType::kQ8_0:
      return scan<34, 0, half_is_bad>(bytes, n);
    case TensorType::kQ2_K:
      return scan<84, 80, half_pair_is_bad>(bytes, n);
    case TensorType::kQ3_K:
      return scan<110, 108, half_is_bad>(bytes, n);
    case TensorType::kQ4_K:
      return scan<144, 0, half_pair_is_bad>(bytes, n);
    case TensorType::kQ5_K:
      return scan<176, 0, half_pair_is_bad>(bytes, n);
    case TensorType::kQ6_K:
      return scan<210, 208, half_is_bad>(bytes, n);
    case TensorType::kIQ4_XS:
      return scan<136, 0, half_is_bad>(bytes, n);
    case TensorType::kMXFP4:
      return scan<17, 0, e8m0_is_bad>(bytes, n);
  }
  HOTSET_CHECK(false, "a TensorType that is none of its enumerators");
  return -1;
}

}  // namespace hotset
