// Packed matrices (kernels/packed.h) as the row dots of the card read them: 16 bytes a load, which
// are one dword of four rows.
#pragma once

#include "kernels/cuda/card_kernels.h"
#include "kernels/simd/float_math.h"

namespace hotset::HOTSET_ISA {

// A matrix by value, for a kernel's arguments: where its planes lie from its start, what a row
// group takes of each, and what its codes mean.
struct CardMatrix {
  const std::byte* data;
  Planes<int64_t> at, group_bytes;
  int64_t n, k, cells;
  ScaleKind scale;
  OffsetKind offset;
  bool has_factor;
  int bias;
  int scale_shift, zero_shift;  // from a cell's index to that of its scale and of its zero point
  int64_t block;                // float matrices: inputs a scale covers
  uint32_t table[4], low_table[4];
};

// The planes of one row group.
struct GroupView {
  const std::byte *codes, *high, *scales, *sub_scales, *offsets, *sub_offsets, *factors;
};

HOTSET_DEVICE GroupView group_view(const CardMatrix& m, const std::byte* data, int64_t group) {
  return {data + m.at.codes + group * m.group_bytes.codes,
          data + m.at.high + group * m.group_bytes.high,
          data + m.at.scales + group * m.group_bytes.scales,
          data + m.at.sub_scales + group * m.group_bytes.sub_scales,
          data + m.at.offsets + group * m.group_bytes.offsets,
          data + m.at.sub_offsets + group * m.group_bytes.sub_offsets,
          data + m.at.factors + group * 32};
}

template <class T>
HOTSET_DEVICE T load_as(const std::byte* at) {
  return __ldg(reinterpret_cast<const T*>(at));
}

HOTSET_DEVICE uint16_t half_word(const uint32_t* words, int i) {
  return static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
}

// Four rows' values of a plane that has one for each row.
HOTSET_DEVICE void load_f16(const std::byte* at, float* out) {
  const uint2 both = load_as<uint2>(at);
  const uint32_t words[2] = {both.x, both.y};
  for (int i = 0; i < 4; ++i) out[i] = from_half(half_word(words, i));
}
HOTSET_DEVICE void load_bf16(const std::byte* at, float* out) {
  const uint2 both = load_as<uint2>(at);
  const uint32_t words[2] = {both.x, both.y};
  for (int i = 0; i < 4; ++i) out[i] = __uint_as_float(uint32_t{half_word(words, i)} << 16);
}
HOTSET_DEVICE void load_f32(const std::byte* at, float* out) {
  const float4 v = load_as<float4>(at);
  out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}
HOTSET_DEVICE void load_bytes(const std::byte* at, bool is_signed, int* out) {
  const uint32_t four = load_as<uint32_t>(at);
  for (int i = 0; i < 4; ++i) {
    const uint32_t byte = four >> (8 * i) & 0xff;
    out[i] = is_signed ? static_cast<int8_t>(byte) : static_cast<int>(byte);
  }
}
// e4m3's number / 256: its bits as those of a half.
HOTSET_DEVICE float e4m3_value(uint32_t bits) {
  return from_half(static_cast<uint16_t>((bits & 0x7f) << 7 | (bits & 0x80) << 8));
}

// The scales of a cell of four rows, `half` of a group's eight.
template <int kCells>
HOTSET_DEVICE void load_scales(const CardMatrix& m, const GroupView& g, int64_t cell, int half,
                               float* out) {
  const int64_t row4 = cell * 8 + half * 4;  // of a plane with a value a cell and row
  const int64_t index = (cell >> m.scale_shift) * 8 + half * 4;
  int bytes[4];
  switch (m.scale) {
    case ScaleKind::kF16:
      return load_f16(g.scales + index * 2, out);
    case ScaleKind::kBF16:
      return load_bf16(g.scales + index * 2, out);
    case ScaleKind::kF32:
      return load_f32(g.scales + index * 4, out);
    case ScaleKind::kE8M0:  // 2^(e - 128); e = 0 and 1 are float32 subnormals
      load_bytes(g.scales + index, false, bytes);
      for (int i = 0; i < 4; ++i) {
        const auto e = static_cast<uint32_t>(bytes[i]);
        out[i] = __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
      }
      return;
    case ScaleKind::kE4M3:  // halved
      load_bytes(g.scales + index, false, bytes);
      for (int i = 0; i < 4; ++i) {
        out[i] = mul(e4m3_value(static_cast<uint32_t>(bytes[i])), 128.0f);
      }
      return;
    case ScaleKind::kTwoLevelU8:
    case ScaleKind::kTwoLevelI8:
      load_f16(g.scales + (cell / (8 * kCells) * 8 + half * 4) * 2, out);
      load_bytes(g.sub_scales + row4, m.scale == ScaleKind::kTwoLevelI8, bytes);
      for (int i = 0; i < 4; ++i) out[i] = mul(out[i], __int2float_rn(bytes[i]));
      return;
    default:
      for (int i = 0; i < 4; ++i) out[i] = 1.0f;
  }
}

// The offsets of a cell, with their sign; m has them.
template <int kCells>
HOTSET_DEVICE void load_offsets(const CardMatrix& m, const GroupView& g, int64_t cell, int half,
                                float* out) {
  const int64_t row4 = cell * 8 + half * 4;
  if (m.offset == OffsetKind::kF16) return load_f16(g.offsets + row4 * 2, out);
  int bytes[4];
  load_f16(g.offsets + (cell / (8 * kCells) * 8 + half * 4) * 2, out);
  load_bytes(g.sub_offsets + row4, false, bytes);
  for (int i = 0; i < 4; ++i) out[i] = mul(mul(out[i], -1.0f), __int2float_rn(bytes[i]));
}

// Codes: load(d) gives the dwords of four rows with inputs 4d .. 4d+3 (low) and, where a code has
// four bits, 16+4d .. 16+4d+3 (high), as signed bytes; of two planes for 16-bit tables.
struct Dwords {
  uint32_t low[4], high[4];
};

HOTSET_DEVICE void load_rows(const std::byte* at, uint32_t* out) {
  const uint4 v = load_as<uint4>(at);
  out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}

struct Nibbles {
  static constexpr int kDwords = 4, kPlanes = 1;
  static constexpr bool kHasHigh = true;
  HOTSET_DEVICE static void load(const CardMatrix&, const GroupView& g, int64_t unit, int half,
                                 int d, Dwords* out) {
    uint32_t codes[4];
    load_rows(g.codes + unit * 128 + d * 32 + half * 16, codes);
    for (int i = 0; i < 4; ++i) {
      out->low[i] = codes[i] & 0x0f0f0f0fu;
      out->high[i] = codes[i] >> 4 & 0x0f0f0f0fu;
    }
  }
};

// The table's entries for the low and for the high nibbles of four bytes.
HOTSET_DEVICE void look_up(const uint32_t* table, uint32_t codes, uint32_t* low, uint32_t* high) {
  const uint32_t in_eight = codes & 0x77777777u;
  const uint32_t which = 0x32103210u | (codes & 0x88888888u) >> 1;
  uint32_t four[2];  // entries of nibbles 0..3 and 4..7
  for (int i = 0; i < 2; ++i) {
    const uint32_t first = __byte_perm(table[0], table[1], in_eight >> (16 * i));
    const uint32_t second = __byte_perm(table[2], table[3], in_eight >> (16 * i));
    four[i] = __byte_perm(first, second, which >> (16 * i));
  }
  *low = __byte_perm(four[0], four[1], 0x6420);
  *high = __byte_perm(four[0], four[1], 0x7531);
}

template <int kTables>
struct TableNibbles {
  static constexpr int kDwords = 4, kPlanes = kTables;
  static constexpr bool kHasHigh = true;
  HOTSET_DEVICE static void load(const CardMatrix& m, const GroupView& g, int64_t unit, int half,
                                 int d, Dwords* out) {
    uint32_t codes[4];
    load_rows(g.codes + unit * 128 + d * 32 + half * 16, codes);
    for (int i = 0; i < 4; ++i) {
      look_up(m.table, codes[i], &out[0].low[i], &out[0].high[i]);
      if (kTables == 2) {
        look_up(m.low_table, codes[i], &out[kTables - 1].low[i], &out[kTables - 1].high[i]);
      }
    }
  }
};

struct SixBits {
  static constexpr int kDwords = 4, kPlanes = 1;
  static constexpr bool kHasHigh = true;
  HOTSET_DEVICE static void load(const CardMatrix& m, const GroupView& g, int64_t unit, int half,
                                 int d, Dwords* out) {
    Nibbles::load(m, g, unit, half, d, out);
    uint32_t high[4];  // the second of two uses is a hit in the L1
    load_rows(g.high + unit * 64 + d / 2 * 32 + half * 16, high);
    const int shift = d % 2 * 4;
    for (int i = 0; i < 4; ++i) {
      out->low[i] |= (high[i] >> shift & 0x03030303u) << 4;
      out->high[i] |= (high[i] >> (shift + 2) & 0x03030303u) << 4;
    }
  }
};

struct EightBits {
  static constexpr int kDwords = 8, kPlanes = 1;
  static constexpr bool kHasHigh = false;
  HOTSET_DEVICE static void load(const CardMatrix&, const GroupView& g, int64_t unit, int half,
                                 int d, Dwords* out) {
    load_rows(g.codes + unit * 256 + d * 32 + half * 16, out->low);
  }
};

}  // namespace hotset::HOTSET_ISA
