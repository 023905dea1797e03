// Packing of block types into P4, P6 and P8. A source type says only how its block's codes and
// scales are read, 32-bit words at a time; one template interleaves them for all types, so a new
// source adds a few lines here and no kernel.
#include <cstring>

#include "kernels/check.h"
#include "kernels/formats/block_layout.h"
#include "kernels/pack_unit.h"

namespace hotset {
namespace {

// 16 bytes in the Q4_0 order: low nibbles are inputs 0..15, high ones 16..31.
Codes nibbles(const std::byte* bytes) {
  const auto words = load<Words>(bytes);
  return {words & each_byte(15), words >> 4 & each_byte(15)};
}

// The bits `mask` << shift of each of 32 bytes.
Codes bit_field(const std::byte* bytes, int64_t shift, uint32_t mask) {
  const auto count = static_cast<int>(shift);
  return {load<Words>(bytes) >> count & each_byte(mask),
          load<Words>(bytes + 16) >> count & each_byte(mask)};
}

Codes merged(const Codes& low, const Codes& high, int shift) {
  return {low.first | high.first << shift, low.second | high.second << shift};
}

// A byte of 16 for each bit that is set: bit j in byte j.
Words fifth_bits(uint32_t bits) {
  constexpr uint64_t kEachByte = 0x0101010101010101;
  const Quads copies = {(bits & 0xff) * kEachByte, (bits >> 8 & 0xff) * kEachByte};
  const Bytes bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const Bytes is_set = std::bit_cast<Bytes>((std::bit_cast<Bytes>(copies) & bit) == bit);
  return std::bit_cast<Words>(is_set) & each_byte(16);
}

Codes with_fifth_bits(const Codes& codes, uint32_t bits) {
  return {codes.first | fifth_bits(bits), codes.second | fifth_bits(bits >> 16)};
}

// A source type: where its block's scale and offset lie, how the codes of unit u of a block are
// read, and `subs`, which reads the 8-bit scales (and offsets) of a 256-block.
struct Block32 {
  static constexpr int kUnits = 1, kSubs = 0, kScaleBytes = 2, kScaleAt = 0;
  static constexpr int kOffsetAt = -1;  // none
};
struct Block256 : Block32 {
  static constexpr int kUnits = 8, kSubs = 8;
};

struct Q40 : Block32 {  // IQ4_NL too: only the meaning of the codes differs
  static constexpr int kBytes = 18;
  static constexpr Layout kLayout = Layout::kP4;
  static Codes unit(const std::byte* block, int64_t) { return nibbles(block + 2); }
};

struct Q41 : Block32 {
  static constexpr int kBytes = 20, kOffsetAt = 2;
  static constexpr Layout kLayout = Layout::kP4;
  static Codes unit(const std::byte* block, int64_t) { return nibbles(block + 4); }
};

struct Q50 : Block32 {
  static constexpr int kBytes = 22;
  static constexpr Layout kLayout = Layout::kP6;
  static Codes unit(const std::byte* block, int64_t) {
    return with_fifth_bits(nibbles(block + 6), load<uint32_t>(block + 2));
  }
};

struct Q51 : Block32 {
  static constexpr int kBytes = 24, kOffsetAt = 2;
  static constexpr Layout kLayout = Layout::kP6;
  static Codes unit(const std::byte* block, int64_t) {
    return with_fifth_bits(nibbles(block + 8), load<uint32_t>(block + 4));
  }
};

struct Q80 : Block32 {
  static constexpr int kBytes = 34;
  static constexpr Layout kLayout = Layout::kP8;
  static Codes unit(const std::byte* block, int64_t) {
    return {load<Words>(block + 2), load<Words>(block + 18)};
  }
};

struct Mxfp4 : Block32 {
  static constexpr int kBytes = 17, kScaleBytes = 1;
  static constexpr Layout kLayout = Layout::kP4;
  static Codes unit(const std::byte* block, int64_t) { return nibbles(block + 1); }
};

struct Q2K : Block256 {
  static constexpr int kBytes = 84, kSubs = 16, kScaleAt = 80, kOffsetAt = 82;
  static constexpr Layout kLayout = Layout::kP4;
  static Codes unit(const std::byte* block, int64_t u) {
    return bit_field(block + 16 + u / 4 * 32, u % 4 * 2, 3);
  }
  static void subs(const std::byte* block, uint8_t* scales, uint8_t* offsets) {
    for (int s = 0; s < 16; ++s) {
      scales[s] = std::to_integer<uint8_t>(block[s] & std::byte{15});
      offsets[s] = std::to_integer<uint8_t>(block[s] >> 4);
    }
  }
};

struct Q3K : Block256 {
  static constexpr int kBytes = 110, kSubs = 16, kScaleAt = 108;
  static constexpr Layout kLayout = Layout::kP4;
  static Codes unit(const std::byte* block,
                    int64_t u) {  // code = q + 4: the file's high bit as it is
    return merged(bit_field(block + 32 + u / 4 * 32, u % 4 * 2, 3), bit_field(block, u, 1), 2);
  }
  static void subs(const std::byte* block, uint8_t* scales, uint8_t*) {
    int8_t values[16];
    unpack_q3_scales(block + 96, values);
    std::memcpy(scales, values, 16);
  }
};

struct Q4K : Block256 {
  static constexpr int kBytes = 144, kOffsetAt = 2;
  static constexpr Layout kLayout = Layout::kP4;
  static Codes unit(const std::byte* block, int64_t u) {
    return bit_field(block + 16 + u / 2 * 32, u % 2 * 4, 15);
  }
  static void subs(const std::byte* block, uint8_t* scales, uint8_t* offsets) {
    unpack_k_scales(block + 4, scales, offsets);
  }
};

struct Q5K : Block256 {
  static constexpr int kBytes = 176, kOffsetAt = 2;
  static constexpr Layout kLayout = Layout::kP6;
  static Codes unit(const std::byte* block, int64_t u) {
    return merged(bit_field(block + 48 + u / 2 * 32, u % 2 * 4, 15), bit_field(block + 16, u, 1),
                  4);
  }
  static void subs(const std::byte* block, uint8_t* scales, uint8_t* offsets) {
    unpack_k_scales(block + 4, scales, offsets);
  }
};

struct Q6K : Block256 {
  static constexpr int kBytes = 210, kSubs = 16, kScaleAt = 208;
  static constexpr Layout kLayout = Layout::kP6;
  static Codes unit(const std::byte* block, int64_t u) {
    const int64_t half = u / 4, run = u % 4;
    return merged(bit_field(block + 64 * half + run % 2 * 32, run / 2 * 4, 15),
                  bit_field(block + 128 + 32 * half, 2 * run, 3), 4);
  }
  static void subs(const std::byte* block, uint8_t* scales, uint8_t*) {
    std::memcpy(scales, block + 192, 16);
  }
};

struct Iq4Xs : Block256 {
  static constexpr int kBytes = 136;
  static constexpr Layout kLayout = Layout::kP4;
  static Codes unit(const std::byte* block, int64_t u) { return nibbles(block + 8 + 16 * u); }
  static void subs(const std::byte* block, uint8_t* scales, uint8_t*) {
    int8_t values[8];
    unpack_iq4_xs_scales(block, values);
    std::memcpy(scales, values, 8);
  }
};

template <class Source>
void pack_scales(const std::byte* block, int64_t b, int64_t r, const Planes<std::byte*>& out) {
  if constexpr (Source::kScaleBytes == 1) {
    out.scales[b * 8 + r] = block[Source::kScaleAt];
  } else {
    store(out.scales + (b * 8 + r) * 2, load<uint16_t>(block + Source::kScaleAt));
  }
  if constexpr (Source::kOffsetAt >= 0) {
    store(out.offsets + (b * 8 + r) * 2, load<uint16_t>(block + Source::kOffsetAt));
  }
  if constexpr (Source::kSubs > 0) {
    uint8_t scales[Source::kSubs], offsets[Source::kSubs];
    Source::subs(block, scales, offsets);
    for (int s = 0; s < Source::kSubs; ++s) {
      const int64_t at = (b * Source::kSubs + s) * 8 + r;
      store(out.sub_scales + at, scales[s]);
      if constexpr (Source::kOffsetAt >= 0) store(out.sub_offsets + at, offsets[s]);
    }
  }
}

template <class Source>
void pack_group(int64_t k, const RowGroup& group, const Planes<std::byte*>& out) {
  constexpr int kLowBytes = Source::kLayout == Layout::kP8 ? 256 : 128;
  const int64_t blocks = k / (32 * Source::kUnits);
  std::array<Codes, 8> codes = {};
  for (int64_t b = 0; b < blocks; ++b) {
    const auto block = [&](int r) { return group.row(r) + b * Source::kBytes; };
#pragma GCC unroll 8  // u known to the compiler: constant shifts, 1.4 times as fast for Q6_K
    for (int64_t u = 0; u < Source::kUnits; ++u) {
      const int64_t unit = b * Source::kUnits + u;
      for (int r = 0; r < group.rows; ++r) codes[r] = Source::unit(block(r), u);
      write_unit<Source::kLayout>(codes, out.codes + unit * kLowBytes, out.high + unit * 64);
    }
    for (int r = 0; r < group.rows; ++r) pack_scales<Source>(block(r), b, r, out);
  }
}

}  // namespace

void pack_block_group(const PackedShape& shape, TensorType type, const RowGroup& group,
                      const Planes<std::byte*>& out) {
  switch (type) {
    case TensorType::kQ4_0:
    case TensorType::kIQ4_NL:
      return pack_group<Q40>(shape.k, group, out);
    case TensorType::kQ4_1:
      return pack_group<Q41>(shape.k, group, out);
    case TensorType::kQ5_0:
      return pack_group<Q50>(shape.k, group, out);
    case TensorType::kQ5_1:
      return pack_group<Q51>(shape.k, group, out);
    case TensorType::kQ8_0:
      return pack_group<Q80>(shape.k, group, out);
    case TensorType::kMXFP4:
      return pack_group<Mxfp4>(shape.k, group, out);
    case TensorType::kQ2_K:
      return pack_group<Q2K>(shape.k, group, out);
    case TensorType::kQ3_K:
      return pack_group<Q3K>(shape.k, group, out);
    case TensorType::kQ4_K:
      return pack_group<Q4K>(shape.k, group, out);
    case TensorType::kQ5_K:
      return pack_group<Q5K>(shape.k, group, out);
    case TensorType::kQ6_K:
      return pack_group<Q6K>(shape.k, group, out);
    case TensorType::kIQ4_XS:
      return pack_group<Iq4Xs>(shape.k, group, out);
    case TensorType::kF32:
    case TensorType::kF16:
    case TensorType::kBF16:
      break;
  }
  HOTSET_CHECK(false, "float types pack into PF");
}

}  // namespace hotset
