// Row dots of quantised matrices (P4, P6, P8) with quantised activations, by the numerics rule of
// formats.md 3.6. One loop serves decode and prefill: a unit's weights are unpacked once and used
// for a tile of tokens, whose lanes stay in the L1 cache (one load and store per cell beside eight
// or more multiply-adds; a walk lane by lane with register sums would unpack from a strided
// stream).
#include "kernels/cpu/row_dot.h"

#include "kernels/cpu/functions.h"

namespace hotset::HOTSET_ISA {
namespace {

using rows::Bytes;
using rows::Floats;
using rows::Inputs;
using rows::Ints;
using rows::kRows;
using rows::kSets;
using rows::Range;

constexpr int kTile = 16;       // tokens: 16 KB of lanes at 2 sets of 16 rows
constexpr int kChunkUnits = 8;  // 256 inputs: what one super scale covers
// Row groups walked for one tile before the next tile starts: their codes (and the tile's
// activations) should stay in the L2 cache.
constexpr int64_t kBlockBytes = 192 * 1024;

// A matrix's row groups of one vector set, ready to be unpacked.
struct GroupSet {
  const PackedFormat* format;
  int64_t units, blocks;
  Plane codes, high, scales, sub_scales, offsets, sub_offsets;
};

// What unpacked bytes mean besides themselves.
struct Constants {
  Bytes table;
  Ints bias[2];  // minus the bias, as half_weights of a unit (block 32), or of its two cells
};

struct Tile {
  int64_t tokens;
  int64_t first_unit[kTile];  // of the token's row in QuantisedRows
  alignas(64) float lanes[kTile][kSets][8][kRows];
};

// Formats: what turns a unit's codes into eight byte vectors, vector j for inputs 4j .. 4j+3.
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

using LoadFactors = Floats (*)(const std::byte*, int64_t);

// Decodes one factor a block and row from an 8-bit plane, times `super` where there is one.
template <LoadFactors kLoad, int kBytes>
void decode_plane(float* out, const Plane& plane, int64_t first_block, int count) {
  for (int b = 0; b < count; ++b) {
    const std::byte* at = plane.at + (first_block + b) * 8 * kBytes;
    rows::store(out + b * kRows, kLoad(at, plane.next));
  }
}

template <LoadFactors kLoad>
void decode_two_level(float* out, const Plane& sub, Floats super, int64_t first_block, int count) {
  for (int b = 0; b < count; ++b) {
    const Floats factor = kLoad(sub.at + (first_block + b) * 8, sub.next);
    rows::store(out + b * kRows, rows::mul(super, factor));
  }
}

Floats load_super(const Plane& plane, int64_t chunk) {
  return rows::load_f16(plane.at + chunk * 16, plane.next);
}

// The scales of blocks first_block .. first_block+count-1, all of chunk `chunk`: [count][kRows].
void decode_scales(float* out, const GroupSet& set, int64_t chunk, int64_t first_block, int count) {
  switch (set.format->scale) {
    case ScaleKind::kNone:
      break;
    case ScaleKind::kF16:
      decode_plane<rows::load_f16, 2>(out, set.scales, first_block, count);
      break;
    case ScaleKind::kE8M0:
      decode_plane<rows::load_e8m0, 1>(out, set.scales, first_block, count);
      break;
    case ScaleKind::kTwoLevelU8:
      decode_two_level<rows::load_u8>(out, set.sub_scales, load_super(set.scales, chunk),
                                      first_block, count);
      break;
    case ScaleKind::kTwoLevelI8:
      decode_two_level<rows::load_i8>(out, set.sub_scales, load_super(set.scales, chunk),
                                      first_block, count);
      break;
  }
}

// Likewise the offsets, with their sign.
void decode_offsets(float* out, const GroupSet& set, int64_t chunk, int64_t first_block,
                    int count) {
  if (set.format->offset == OffsetKind::kF16) {
    decode_plane<rows::load_f16, 2>(out, set.offsets, first_block, count);
  } else {
    const Floats super = rows::mul(load_super(set.offsets, chunk), rows::broadcast(-1.0f));
    decode_two_level<rows::load_u8>(out, set.sub_offsets, super, first_block, count);
  }
}

// One cell of one token: lane += idot * (scale * a), then lane += asum * (offset * a).
template <bool kHasOffset>
inline void add_cell(float* lane, Ints idot, Ints asum, const float* scale, const float* offset,
                     Floats a) {
  Floats sum = rows::load(lane);
  sum = rows::fma(rows::to_floats(idot), rows::mul(rows::load(scale), a), sum);
  if constexpr (kHasOffset) {
    sum = rows::fma(rows::to_floats(asum), rows::mul(rows::load(offset), a), sum);
  }
  rows::store(lane, sum);
}

// The scales of a chunk's cells, and its offsets: [cells][kRows].
template <int kBlock, bool kHasOffset>
struct Factors {
  static constexpr int kFloats = kChunkUnits * (32 / kBlock) * kRows;
  alignas(64) float scales[kFloats];
  alignas(64) float offsets[kHasOffset ? kFloats : 1];
};

// Adds unit `unit`, unpacked into w, of kCount sets to every token's lanes. `place`: its first
// cell's in the factors.
template <class Format, int kBlock, bool kHasOffset, int kCount>
inline void add_unit(const Bytes (*w)[8], const Constants& constants, const QuantisedRows& x,
                     int64_t unit, const Factors<kBlock, kHasOffset>* factors, int place,
                     Tile& tile) {
  constexpr int kCells = 32 / kBlock;
  constexpr int kVectors = 8 / kCells;
  const Ints sum_weights[2] = {rows::half_weights(1, kCells == 1), rows::half_weights(0, 1)};
  for (int64_t t = 0; t < tile.tokens; ++t) {
    const int64_t at = tile.first_unit[t] + unit;
    const int16_t* half_sum = x.half_sum + at * 2;
    const Floats a = rows::broadcast(x.scale[at]);
    Inputs inputs[8];
    for (int j = 0; j < 8; ++j) inputs[j] = rows::four_inputs(x.q + at * 32 + j * 4);
    for (int cell = 0; cell < kCells; ++cell) {
      const Ints start =
          Format::kHasBias ? rows::weigh_halves(half_sum, constants.bias[cell]) : rows::zero_ints();
      const Ints asum =
          kHasOffset ? rows::weigh_halves(half_sum, sum_weights[cell]) : rows::zero_ints();
      for (int s = 0; s < kCount; ++s) {
        const Ints idot =
            cell == 0 ? rows::dot<Format::kRange, 0, kVectors>(w[s], inputs, start)
                      : rows::dot<Format::kRange, 8 - kVectors, kVectors>(w[s], inputs, start);
        const int f = place + cell * kRows;
        add_cell<kHasOffset>(tile.lanes[t][s][unit * kCells % 8 + cell], idot, asum,
                             factors[s].scales + f, factors[s].offsets + (kHasOffset ? f : 0), a);
      }
    }
  }
}

// kCount sets, one after the other in memory.
template <class Format, int kBlock, bool kHasOffset, int kCount>
void dot_sets(const GroupSet* sets, const Constants& constants, const QuantisedRows& x,
              Tile& tile) {
  constexpr int kCells = 32 / kBlock;
  Factors<kBlock, kHasOffset> factors[kCount];
  const int64_t all = sets[0].units;
  for (int64_t unit0 = 0; unit0 < all; unit0 += kChunkUnits) {
    const int units = static_cast<int>(all - unit0 < kChunkUnits ? all - unit0 : kChunkUnits);
    const int64_t chunk = unit0 / kChunkUnits;
    for (int s = 0; s < kCount; ++s) {
      decode_scales(factors[s].scales, sets[s], chunk, unit0 * kCells, units * kCells);
      if constexpr (kHasOffset) {
        decode_offsets(factors[s].offsets, sets[s], chunk, unit0 * kCells, units * kCells);
      }
    }
    for (int u = 0; u < units; ++u) {
      Bytes w[kCount][8];
      for (int s = 0; s < kCount; ++s) {
        Format::unpack(sets[s], constants, unit0 + u, w[s]);
        prefetch_unit<Format>(sets[s], unit0 + u);
      }
      add_unit<Format, kBlock, kHasOffset, kCount>(w, constants, x, unit0 + u, factors,
                                                   u * kCells * kRows, tile);
    }
  }
}

template <class Format>
inline void prefetch_unit(const GroupSet& set, int64_t unit) {
  prefetch_next<Format::kUnitBytes>(set.codes, unit);
  if constexpr (Format::kHasHigh) prefetch_next<64>(set.high, unit);
  prefetch_next<16>(set.scales, unit);
}

using DotSets = void (*)(const GroupSet*, const Constants&, const QuantisedRows&, Tile&);

// What walks one set, and kSets at once. A single token streams from memory: one set at a time
// keeps the streams few. With more tokens each load of inputs serves all sets.
struct Kernels {
  DotSets one, several;
};

template <class Format, int kBlock, bool kHasOffset>
constexpr Kernels kernels_for() {
  return {dot_sets<Format, kBlock, kHasOffset, 1>, dot_sets<Format, kBlock, kHasOffset, kSets>};
}

// Quantised rows are whole units, so with blocks of 16 the second cell always exists.
template <class Format>
Kernels find_kernels(const PackedFormat& format) {
  const bool has_offset = format.offset != OffsetKind::kNone;
  if (format.block == 16) {
    return has_offset ? kernels_for<Format, 16, true>() : kernels_for<Format, 16, false>();
  }
  return has_offset ? kernels_for<Format, 32, true>() : kernels_for<Format, 32, false>();
}

// The kernels for a format, and the constants that go with it.
Kernels choose(const PackedFormat& format, Constants& constants) {
  int8_t table[16];
  std::memcpy(table, &format.table, sizeof(table));
  int bias = format.bias;
  Kernels kernels;
  bool is_signed_table = false;
  if (format.layout == Layout::kP8) {
    bias = rows::kSignedBias;
    kernels = find_kernels<EightBits>(format);
  } else if (format.layout == Layout::kP6) {
    kernels = find_kernels<SixBits>(format);
  } else if (!format.has_table) {
    kernels = find_kernels<Nibbles>(format);
  } else {
    int least = table[0], most = table[0];
    for (const int8_t value : table) {
      least = value < least ? value : least;
      most = value > most ? value : most;
    }
    if (most - least <= 63) {  // made unsigned, six bits suffice
      bias = -least;
      for (int8_t& value : table) value = static_cast<int8_t>(value - least);
      kernels = find_kernels<TableNibbles<Range::kU6>>(format);
    } else {
      bias = rows::kSignedBias;
      is_signed_table = true;
      kernels = find_kernels<TableNibbles<Range::kSigned>>(format);
    }
  }
  constants.table = rows::load_table(table);
  if (is_signed_table) constants.table = rows::prepare_signed(constants.table);
  const bool one_cell = format.block != 16;
  constants.bias[0] = rows::half_weights(-bias, one_cell ? -bias : 0);
  constants.bias[1] = rows::half_weights(0, -bias);
  return kernels;
}

GroupSet make_set(const RowDotArgs& args, int64_t group) {
  const PackedShape& s = args.matrix.shape;
  GroupSet set;
  set.format = &s.format;
  set.units = (s.k + 31) / 32;
  set.blocks = (s.k + s.format.block - 1) / s.format.block;
  const int64_t super_bytes = (s.k + 255) / 256 * 16;
  const bool two_level =
      s.format.scale == ScaleKind::kTwoLevelU8 || s.format.scale == ScaleKind::kTwoLevelI8;
  const int64_t scale_bytes = set.blocks * (s.format.scale == ScaleKind::kE8M0 ? 8 : 16);
  const int64_t offset_bytes =
      s.format.offset == OffsetKind::kTwoLevelU8 ? super_bytes : set.blocks * 16;
  const int64_t code_bytes = set.units * (s.format.layout == Layout::kP8 ? 256 : 128);
  set.codes = plane_at(args, s.codes, code_bytes, group);
  set.high = plane_at(args, s.high, set.units * 64, group);
  set.scales = plane_at(args, s.scales, two_level ? super_bytes : scale_bytes, group);
  set.sub_scales = plane_at(args, s.sub_scales, set.blocks * 8, group);
  set.offsets = plane_at(args, s.offsets, offset_bytes, group);
  set.sub_offsets = plane_at(args, s.sub_offsets, set.blocks * 8, group);
  return set;
}

// A tile of tokens, from `token` on, times the `count` sets from `group` on. Returns how many row
// groups those are.
int64_t dot_tile(const RowDotArgs& args, const Kernels& kernels, const Constants& constants,
                 int64_t group, int count, int64_t token, Tile& tile) {
  GroupSet sets[kSets];
  for (int s = 0; s < count; ++s) sets[s] = make_set(args, group + s * rows::kGroups);
  std::memset(tile.lanes, 0, static_cast<size_t>(tile.tokens) * sizeof(tile.lanes[0]));
  (count == 1 ? kernels.one : kernels.several)(sets, constants, args.quantised, tile);
  for (int64_t t = 0; t < tile.tokens; ++t) {
    for (int s = 0; s < count; ++s) {
      store_results(args, tile.lanes[t][s][0], group + s * rows::kGroups, token + t);
    }
  }
  return count * rows::kGroups;
}

}  // namespace

void row_dot_quantised(const RowDotArgs& args) {
  Constants constants;
  const Kernels kernels = choose(args.matrix.shape.format, constants);
  const QuantisedRows& x = args.quantised;
  constexpr int64_t kStep = kSets * rows::kGroups;
  const int64_t step_bytes = (args.matrix.shape.k + 31) / 32 * 160 * kStep;
  int64_t block = kBlockBytes / step_bytes * kStep;
  if (block < kStep) block = kStep;
  const int64_t tiles = (args.tokens + kTile - 1) / kTile;

  Tile tile;
  for (int64_t begin = args.group_begin; begin < args.group_end; begin += block) {
    const int64_t end = begin + block < args.group_end ? begin + block : args.group_end;
    int64_t token = 0;
    for (int64_t i = 0; i < tiles; ++i) {  // tiles of nearly equal size
      tile.tokens = (args.tokens - token) / (tiles - i);
      for (int64_t t = 0; t < tile.tokens; ++t) {
        tile.first_unit[t] = activation_row(args, token + t) * x.units;
      }
      for (int64_t group = begin; group < end;) {
        const bool is_several = tile.tokens > 1 && end - group > (kSets - 1) * rows::kGroups;
        group += dot_tile(args, kernels, constants, group, is_several ? kSets : 1, token, tile);
      }
      token += tile.tokens;
    }
  }
}

void row_dot(const RowDotArgs& args) {
  if (args.matrix.shape.format.layout == Layout::kPF) {
    row_dot_float(args);
  } else {
    row_dot_quantised(args);
  }
}

}  // namespace hotset::HOTSET_ISA
