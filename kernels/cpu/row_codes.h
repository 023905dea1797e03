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

// One token is bound by memory, and a processor's prefetchers follow one stream of codes better
// than two. Vectors of two row groups read two, so their instruction sets leave it to AVX2's code:
// decode reads 83 to 91 % of what memory gives, with AVX-512's own 80 to 82 (Zen 4, Q4_0 and Q8_0).
constexpr bool kReadsOneStream = rows::kGroups == 1;

constexpr int kChunkUnits = 8;  // 256 inputs: what one super scale covers

// A matrix's row groups of one vector set, ready to be unpacked.
struct GroupSet {
  int64_t units;
  Plane codes, high, scales, sub_scales, offsets, sub_offsets;
  // For AnyBlock: how the scales are stored, and by how many bits a unit's index is shifted to
  // that of its scale and of its zero point.
  ScaleKind scale_kind;
  int scale_shift, zero_shift;
};

// What unpacked bytes mean besides themselves.
struct Constants {
  Bytes table, low_table;  // the second for wide tables
  Ints bias[2];  // minus the bias, as half_weights of a unit (block 32), or of its two cells
  int8_t code_bias;
};

// Makes the sets of a matrix. What they share is worked out once: a set is a microsecond's work,
// and its divisions were 4 % of that.
class GroupSets {
 public:
  explicit GroupSets(const RowDotArgs& args)
      : args_(args),
        bytes_(group_bytes(args.matrix.shape)),
        ahead_(rows::kGroups * sets_ahead(rows::kGroups * bytes_.codes)) {
    constexpr int kWholeRow = 31;
    const PackedFormat& format = args.matrix.shape.format;
    shared_.units = args.matrix.shape.units();
    shared_.scale_kind = format.scale;
    // Blocks of 16 are cells of their own.
    shared_.scale_shift = format.block == 0    ? kWholeRow
                          : format.block == 16 ? 0
                                               : __builtin_ctz(format.block) - 5;
    shared_.zero_shift = format.offset == OffsetKind::kZeroPoint ? shared_.scale_shift : kWholeRow;
  }

  GroupSet at(int64_t group) const {
    const PackedShape& s = args_.matrix.shape;
    const auto plane = [&](int64_t offset, int64_t bytes) {
      return plane_at(args_, offset, bytes, group, ahead_);
    };
    GroupSet set = shared_;
    set.codes = plane(s.codes, bytes_.codes);
    set.high = plane(s.high, bytes_.high);
    set.scales = plane(s.scales, bytes_.scales);
    set.sub_scales = plane(s.sub_scales, bytes_.sub_scales);
    set.offsets = plane(s.offsets, bytes_.offsets);
    set.sub_offsets = plane(s.sub_offsets, bytes_.sub_offsets);
    return set;
  }

 private:
  const RowDotArgs& args_;
  const Planes<int64_t> bytes_;
  const int64_t ahead_;
  GroupSet shared_ = {};
};

// Codes: what turns a unit's codes into eight byte vectors, vector j for inputs 4j .. 4j+3.
struct Nibbles {
  static constexpr int kUnitBytes = 128;
  static constexpr bool kHasHigh = false, kIsWide = false;
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
  static constexpr bool kHasHigh = false, kIsWide = false;
  static constexpr Range kRange = kTableRange;
  static constexpr bool kHasBias = kRange != Range::kSigned || rows::kSignedBias != 0;
  static void unpack(const GroupSet& set, const Constants& constants, int64_t unit, Bytes* w) {
    Nibbles::unpack(set, constants, unit, w);
    for (int j = 0; j < 8; ++j) w[j] = rows::look_up(constants.table, w[j]);
  }
};

// A table of 16-bit entries, whose bytes are two tables. NF4 in one byte would err by 0.4 % of a
// block's largest weight, so by 5e-5 at most.
struct WideTableNibbles {
  static constexpr int kUnitBytes = 128;
  static constexpr bool kHasHigh = false, kIsWide = true;
  static constexpr Range kRange = Range::kSigned;
  static constexpr bool kHasBias = rows::kWideBias != 0;
  // Calls use(j, w) with the two vectors of each four inputs.
  template <class Use>
  static void each(const GroupSet& set, const Constants& constants, int64_t unit, const Use& use) {
    const auto look_up = [&](int j, Bytes codes) {
      Bytes w[2];
      rows::wide_weights(rows::look_up(constants.table, codes),
                         rows::look_up(constants.low_table, codes), w);
      use(j, w);
    };
#pragma GCC unroll 4
    for (int d = 0; d < 4; ++d) {
      const Bytes codes = rows::load_bytes(set.codes.at + unit * 128 + d * 32, set.codes.next);
      look_up(d, rows::low_nibbles(codes));
      look_up(d + 4, rows::high_nibbles(codes));
    }
  }
  static void unpack(const GroupSet& set, const Constants& constants, int64_t unit, Bytes* w) {
    each(set, constants, unit, [&](int j, const Bytes* two) {
      w[2 * j] = two[0];
      w[2 * j + 1] = two[1];
    });
  }
};

struct SixBits {
  static constexpr int kUnitBytes = 128;
  static constexpr bool kHasHigh = true, kIsWide = false;
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
  static constexpr bool kHasHigh = false, kIsWide = false;
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
  static constexpr bool kHasZeros = false;
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

// Scales of any plain kind for blocks of any length, looked at while it runs: what the quantised
// checkpoints need (coded_rows.h), whose combinations are too many to compile each. A branch that
// always goes the same way is nothing beside a unit's 40 instructions.
template <class Codes_, int kCells_, bool kHasZeros_>
struct AnyBlock {
  using Codes = Codes_;
  static constexpr int kCells = kCells_;
  static constexpr bool kHasZeros = kHasZeros_, kHasOffset = false;

  // Wide tables have no others; and their loop is bound by its instructions.
  static constexpr bool kHasF32Scales = Codes::kIsWide;

  static bool fits(const PackedFormat& f) {
    if (kHasF32Scales && f.scale != ScaleKind::kF32) return false;
    const bool has_zeros = f.offset == OffsetKind::kZeroPoint || f.offset == OffsetKind::kZeroOfRow;
    const bool is_plain = has_zeros || f.offset == OffsetKind::kNone;
    return is_plain && has_zeros == kHasZeros && (f.block == 16) == (kCells == 2);
  }

  struct Supers {};
  static Supers supers(const GroupSet&, int64_t) { return {}; }

  static int64_t scale_index(const GroupSet& set, int64_t cell) {
    return kCells == 1 ? cell >> set.scale_shift : cell;
  }
  static Floats scale(const GroupSet& set, const Supers&, int64_t cell) {
    const int64_t block = scale_index(set, cell);
    if constexpr (kHasF32Scales) return rows::load_f32(set.scales.at + block * 32, set.scales.next);
    switch (set.scale_kind) {
      case ScaleKind::kF16:
        return rows::load_f16(set.scales.at + block * 16, set.scales.next);
      case ScaleKind::kBF16:
        return rows::load_bf16(set.scales.at + block * 16, set.scales.next);
      case ScaleKind::kF32:
        return rows::load_f32(set.scales.at + block * 32, set.scales.next);
      case ScaleKind::kE4M3:  // halved
        return rows::mul(rows::load_e4m3(set.scales.at + block * 8, set.scales.next),
                         rows::broadcast(128.0f));
      default:
        return rows::broadcast(1.0f);
    }
  }
  // Weights for rows::weigh_rows.
  static Ints zeros(const GroupSet& set, int64_t cell) {
    constexpr int kBias = Codes::kRange == Range::kSigned ? rows::kSignedBias : 0;
    return rows::load_zeros(set.offsets.at + (cell >> set.zero_shift) * 8, set.offsets.next, kBias);
  }
  static Floats offset(const GroupSet&, const Supers&, int64_t) { return rows::zero(); }

  static void prefetch(const GroupSet& set, int64_t unit) {
    prefetch_next<Codes::kUnitBytes>(set.codes, unit);
    if (kHasF32Scales || set.scale_kind == ScaleKind::kF32) {
      prefetch_next<32>(set.scales, unit >> set.scale_shift);
    } else {
      prefetch_next<16>(set.scales, unit >> set.scale_shift);
    }
  }
};

// A unit's unpacked weights: a vector for each four inputs, two if they are wide.
template <class Kind>
using Weights = Bytes[Kind::Codes::kIsWide ? 16 : 8];

// One cell of one token: lane += idot * (scale * a), then lane += asum * (offset * a).
inline Floats add_scaled(Floats lane, Ints sum, Floats factor, Floats a) {
  return rows::fma(rows::to_floats(sum), rows::mul(factor, a), lane);
}

}  // namespace hotset::HOTSET_ISA
