// Quantised matrices (P4, P6, P8) as the row dots read them: a set of row groups, how its codes
// become byte vectors, and its blocks' scales and offsets. A `Kind` names one combination.
#pragma once

#include "kernels/cpu/row_dot.h"

namespace hotset::HOTSET_ISA {

using rows::Bytes;
using rows::Floats;
using rows::Ints;
using rows::kRows;
using rows::Range;

constexpr int kChunkUnits = 8;  // 256 inputs: what one super scale covers

// A matrix's row groups of one vector set, ready to be unpacked.
struct GroupSet {
  int64_t units;
  Plane codes, high, scales, sub_scales, offsets, sub_offsets;
};

// What unpacked bytes mean besides themselves.
struct Constants {
  Bytes table;
  Ints bias[2];  // minus the bias, as half_weights of a unit (block 32), or of its two cells
};

inline GroupSet make_set(const RowDotArgs& args, int64_t group) {
  const PackedShape& s = args.matrix.shape;
  GroupSet set;
  set.units = (s.k + 31) / 32;
  const int64_t blocks = (s.k + s.format.block - 1) / s.format.block;
  const int64_t super_bytes = (s.k + 255) / 256 * 16;
  const bool two_level =
      s.format.scale == ScaleKind::kTwoLevelU8 || s.format.scale == ScaleKind::kTwoLevelI8;
  const int64_t scale_bytes = blocks * (s.format.scale == ScaleKind::kE8M0 ? 8 : 16);
  const int64_t offset_bytes =
      s.format.offset == OffsetKind::kTwoLevelU8 ? super_bytes : blocks * 16;
  const int64_t code_bytes = set.units * (s.format.layout == Layout::kP8 ? 256 : 128);
  const int64_t ahead = rows::kGroups * sets_ahead(rows::kGroups * code_bytes);
  const auto plane = [&](int64_t offset, int64_t stride) {
    return plane_at(args, offset, stride, group, ahead);
  };
  set.codes = plane(s.codes, code_bytes);
  set.high = plane(s.high, set.units * 64);
  set.scales = plane(s.scales, two_level ? super_bytes : scale_bytes);
  set.sub_scales = plane(s.sub_scales, blocks * 8);
  set.offsets = plane(s.offsets, offset_bytes);
  set.sub_offsets = plane(s.sub_offsets, blocks * 8);
  return set;
}

// Codes: what turns a unit's codes into eight byte vectors, vector j for inputs 4j .. 4j+3.
struct Nibbles {
  static constexpr int kUnitBytes = 128;
  static constexpr bool kHasHigh = false;
  static constexpr Range kRange = Range::kU4;
  static constexpr bool kHasBias = true;
  static void unpack(const GroupSet& set, const Constants&, int64_t unit, Bytes* w) {
    for (int d = 0; d < 4; ++d) {
      const Bytes codes = rows::load_bytes(set.codes.at + unit * 128 + d * 32, set.codes.next);
      w[d] = rows::low_nibbles(codes);
      w[d + 4] = rows::high_nibbles(codes);
    }
  }
};

template <Range kTableRange>
struct TableNibbles {
  static constexpr int kUnitBytes = 128;
  static constexpr bool kHasHigh = false;
  static constexpr Range kRange = kTableRange;
  static constexpr bool kHasBias = kRange != Range::kSigned || rows::kSignedBias != 0;
  static void unpack(const GroupSet& set, const Constants& constants, int64_t unit, Bytes* w) {
    Nibbles::unpack(set, constants, unit, w);
    for (int j = 0; j < 8; ++j) w[j] = rows::look_up(constants.table, w[j]);
  }
};

struct SixBits {
  static constexpr int kUnitBytes = 128;
  static constexpr bool kHasHigh = true;
  static constexpr Range kRange = Range::kU6;
  static constexpr bool kHasBias = true;
  static void unpack(const GroupSet& set, const Constants& constants, int64_t unit, Bytes* w) {
    Nibbles::unpack(set, constants, unit, w);
    for (int e = 0; e < 2; ++e) {
      const Bytes high = rows::load_bytes(set.high.at + unit * 64 + e * 32, set.high.next);
      w[2 * e] = rows::combine(w[2 * e], rows::top_bits<0>(high));
      w[2 * e + 4] = rows::combine(w[2 * e + 4], rows::top_bits<1>(high));
      w[2 * e + 1] = rows::combine(w[2 * e + 1], rows::top_bits<2>(high));
      w[2 * e + 5] = rows::combine(w[2 * e + 5], rows::top_bits<3>(high));
    }
  }
};

struct EightBits {
  static constexpr int kUnitBytes = 256;
  static constexpr bool kHasHigh = false;
  static constexpr Range kRange = Range::kSigned;
  static constexpr bool kHasBias = rows::kSignedBias != 0;
  static void unpack(const GroupSet& set, const Constants&, int64_t unit, Bytes* w) {
    for (int d = 0; d < 8; ++d) {
      w[d] = rows::prepare_signed(
          rows::load_bytes(set.codes.at + unit * 256 + d * 32, set.codes.next));
    }
  }
};

inline Floats load_super(const Plane& plane, int64_t chunk) {
  return rows::load_f16(plane.at + chunk * 16, plane.next);
}

// A combination of codes, block length, scales and offsets that packed_format gives.
template <class Codes_, int kBlock, ScaleKind kScale, OffsetKind kOffset = OffsetKind::kNone>
struct Kind {
  using Codes = Codes_;
  static constexpr int kCells = 32 / kBlock;  // a unit
  static constexpr bool kHasOffset = kOffset != OffsetKind::kNone;
  static constexpr bool kIsTwoLevel =
      kScale == ScaleKind::kTwoLevelU8 || kScale == ScaleKind::kTwoLevelI8;

  static bool fits(const PackedFormat& f) {
    return f.block == kBlock && f.scale == kScale && f.offset == kOffset;
  }

  // What a chunk of units shares.
  struct Supers {
    Floats scale, offset;
  };
  static Supers supers(const GroupSet& set, int64_t chunk) {
    Supers s = {rows::zero(), rows::zero()};
    if constexpr (kIsTwoLevel) s.scale = load_super(set.scales, chunk);
    if constexpr (kOffset == OffsetKind::kTwoLevelU8) {
      s.offset = rows::mul(load_super(set.offsets, chunk), rows::broadcast(-1.0f));
    }
    return s;
  }

  static Floats scale(const GroupSet& set, const Supers& supers, int64_t block) {
    if constexpr (kScale == ScaleKind::kF16) {
      return rows::load_f16(set.scales.at + block * 16, set.scales.next);
    } else if constexpr (kScale == ScaleKind::kE8M0) {
      return rows::load_e8m0(set.scales.at + block * 8, set.scales.next);
    } else if constexpr (kScale == ScaleKind::kTwoLevelU8) {
      return rows::mul(supers.scale,
                       rows::load_u8(set.sub_scales.at + block * 8, set.sub_scales.next));
    } else {
      return rows::mul(supers.scale,
                       rows::load_i8(set.sub_scales.at + block * 8, set.sub_scales.next));
    }
  }
  static Floats offset(const GroupSet& set, const Supers& supers, int64_t block) {  // with its sign
    if constexpr (kOffset == OffsetKind::kF16) {
      return rows::load_f16(set.offsets.at + block * 16, set.offsets.next);
    } else {
      return rows::mul(supers.offset,
                       rows::load_u8(set.sub_offsets.at + block * 8, set.sub_offsets.next));
    }
  }

  // Asks for the next set's share while unit `unit` of this one is used.
  static void prefetch(const GroupSet& set, int64_t unit) {
    prefetch_next<Codes::kUnitBytes>(set.codes, unit);
    if constexpr (Codes::kHasHigh) prefetch_next<64>(set.high, unit);
    if constexpr (kIsTwoLevel) {
      prefetch_next<16 / kChunkUnits>(set.scales, unit);
      prefetch_next<8 * kCells>(set.sub_scales, unit);
    } else {
      prefetch_next<(kScale == ScaleKind::kE8M0 ? 8 : 16) * kCells>(set.scales, unit);
    }
    if constexpr (kOffset == OffsetKind::kTwoLevelU8) {
      prefetch_next<16 / kChunkUnits>(set.offsets, unit);
      prefetch_next<8 * kCells>(set.sub_offsets, unit);
    } else if constexpr (kHasOffset) {
      prefetch_next<16 * kCells>(set.offsets, unit);
    }
  }
};

}  // namespace hotset::HOTSET_ISA
