// Byte-level pieces of the block formats that the decoder and the packers share: unaligned loads,
// the bit-packed sub-block scales and the code tables (ggml-common.h). Private to kernels/.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace hotset {

static_assert(std::endian::native == std::endian::little, "blocks are read as little-endian words");

inline constexpr std::array<int8_t, 16> kIq4Table = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                     1,    13,   25,  38,  53,  69,  89,  113};
// The values of E2M1, doubled so that they are integers; the scale is halved in exchange.
inline constexpr std::array<int8_t, 16> kMxfp4Table = {0, 1,  2,  3,  4,  6,  8,  12,
                                                       0, -1, -2, -3, -4, -6, -8, -12};

// Blocks lie at any address: their sizes are odd (MXFP4) and safetensors does not align.
template <class T>
inline T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

template <class T>
inline void store(std::byte* bytes, T value) {
  std::memcpy(bytes, &value, sizeof value);
}

// 2^(e - 128): the scale of MXFP4's doubled table. e = 0 and 1 are float32 subnormals.
inline float e8m0_scale(uint8_t e) {
  const uint32_t bits = e < 2 ? uint32_t{0x00200000} << e : (uint32_t{e} - 1) << 23;
  return std::bit_cast<float>(bits);
}

// Q4_K, Q5_K: 8 scales and 8 offsets of 6 bits from 12 bytes.
inline void unpack_k_scales(const std::byte* packed, uint8_t* scales, uint8_t* offsets) {
  const auto a = load<uint32_t>(packed), b = load<uint32_t>(packed + 4),
             c = load<uint32_t>(packed + 8);
  const uint32_t words[4] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030),
                             b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)};
  std::memcpy(scales, words, 8);
  std::memcpy(offsets, words + 2, 8);
}

// Q3_K: 16 scales of 6 bits from 12 bytes, 32 subtracted.
inline void unpack_q3_scales(const std::byte* packed, int8_t* scales) {
  const auto a = load<uint32_t>(packed), b = load<uint32_t>(packed + 4),
             c = load<uint32_t>(packed + 8);
  const uint32_t words[4] = {
      (a & 0x0f0f0f0f) | (c << 4 & 0x30303030), (b & 0x0f0f0f0f) | (c << 2 & 0x30303030),
      (a >> 4 & 0x0f0f0f0f) | (c & 0x30303030), (b >> 4 & 0x0f0f0f0f) | (c >> 2 & 0x30303030)};
  std::memcpy(scales, words, 16);
  for (int s = 0; s < 16; ++s) scales[s] = static_cast<int8_t>(scales[s] - 32);
}

// IQ4_XS: 8 scales of 6 bits from the block's u16 at byte 2 and 4 bytes at byte 4, 32 subtracted.
inline void unpack_iq4_xs_scales(const std::byte* block, int8_t* scales) {
  const uint32_t high = load<uint16_t>(block + 2), low = load<uint32_t>(block + 4);
  for (int s = 0; s < 8; ++s) {
    scales[s] = static_cast<int8_t>(((low >> 4 * s & 15) | (high >> 2 * s & 3) << 4) - 32);
  }
}

}  // namespace hotset
