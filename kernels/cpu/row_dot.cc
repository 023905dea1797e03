// Row dots of quantised matrices (P4, P6, P8) with quantised activations, by the numerics rule of
// docs/numerics.md. Two loops over the same units: one token keeps its lanes in registers and
// streams the weights; for several, a chunk of weights is unpacked into the L1 cache once for a
// tile of tokens, whose lanes lie there too. There the integer sums of a few tokens and a few sets
// are under way at once: each load of inputs serves several sets, each of weights several tokens
// (AVX2, Zen 3, Q4_0: 88 against 63 GMAC/s a core with one token and one set at a time). How those
// sums are made is in row_units.h, for a matrix unit in row_units_matrix.h.
#include "kernels/cpu/functions.h"
#ifdef HOTSET_ISA_amx
#include "kernels/cpu/row_units_matrix.h"
#else
#include "kernels/cpu/row_units.h"
#endif

namespace hotset::HOTSET_ISA {
namespace {

// One token is bound by memory, and a processor's prefetchers follow one stream of codes better
// than two. Vectors of two row groups read two, so their instruction sets leave it to AVX2's code:
// decode reads 83 to 91 % of what memory gives, with AVX-512's own 80 to 82 (Zen 4, Q4_0 and Q8_0).
constexpr bool kReadsOneStream = rows::kGroups == 1;

// Row groups walked for one tile before the next tile starts: their codes (and the tile's
// activations) should stay in the L2 cache.
constexpr int64_t kBlockBytes = 192 * 1024;

// A tile of tokens times kCount sets, which follow each other in memory: a chunk's codes and scales
// are unpacked once for all tokens, into the L1 cache.
template <class Kind, int kCount>
void dot_sets(const GroupSet* sets, const Constants& constants, const QuantisedRows& x,
              Tile& tile) {
  constexpr int kFirstUnits = 8 / Kind::kCells;  // one cell for each lane
  Factors<Kind> factors[kCount];
  Weights<Kind> w[kChunkUnits][kCount];
  const int64_t all = sets[0].units;
  if (all < kFirstUnits) {
    std::memset(tile.lanes, 0, static_cast<size_t>(tile.tokens) * sizeof(tile.lanes[0]));
  }
  for (int64_t unit0 = 0; unit0 < all; unit0 += kChunkUnits) {
    const int units = static_cast<int>(all - unit0 < kChunkUnits ? all - unit0 : kChunkUnits);
    for (int s = 0; s < kCount; ++s) {
      factors[s].decode(sets[s], unit0 / kChunkUnits, units);
      for (int u = 0; u < units; ++u) {
        Kind::Codes::unpack(sets[s], constants, unit0 + u, w[u][s]);
        prepare<Kind>(constants, w[u][s]);
        Kind::prefetch(sets[s], unit0 + u);
      }
    }
    const int64_t first = unit0 > 0 ? 0 : units < kFirstUnits ? units : kFirstUnits;
    if (first > 0) add_units<Kind, kCount, true>(w, constants, x, unit0, first, factors, tile);
    if (units > first) {
      add_units<Kind, kCount, false>(w + first, constants, x, unit0 + first, units - first, factors,
                                     tile);
    }
  }
}

using DotSets = void (*)(const GroupSet*, const Constants&, const QuantisedRows&, Tile&);

// One token and one set (null where another instruction set does that); a tile and one set; a tile
// and kTileSets at once, for which each load of inputs serves them all.
struct Kernels {
  DotSets token = nullptr, one = nullptr, several = nullptr;
};

// Those of the first of Kinds that fits.
template <class... Kinds>
Kernels find_kernels(const PackedFormat& format) {
  Kernels found;
  const auto try_kind = [&]<class Kind>() {
    if (found.one != nullptr || !Kind::fits(format)) return;
    found = {nullptr, dot_sets<Kind, 1>, dot_sets<Kind, kTileSets>};
    if constexpr (kReadsOneStream) found.token = dot_token<Kind>;
  };
  (try_kind.template operator()<Kinds>(), ...);
  if (found.one == nullptr) __builtin_trap();  // packed_format gives no other
  return found;
}

template <class Codes>
using Plain = Kind<Codes, 32, ScaleKind::kF16>;
template <class Codes>
using WithOffset = Kind<Codes, 32, ScaleKind::kF16, OffsetKind::kF16>;
template <class Codes>
using TwoLevel = Kind<Codes, 32, ScaleKind::kTwoLevelI8>;
template <class Codes>
using TwoLevel16 = Kind<Codes, 16, ScaleKind::kTwoLevelI8>;
template <class Codes>
using TwoLevelOffset = Kind<Codes, 32, ScaleKind::kTwoLevelU8, OffsetKind::kTwoLevelU8>;
template <class Codes>
using TwoLevelOffset16 = Kind<Codes, 16, ScaleKind::kTwoLevelU8, OffsetKind::kTwoLevelU8>;
template <class Codes>
using PowerOfTwo = Kind<Codes, 32, ScaleKind::kE8M0>;

// The kernels for a format, and the constants that go with it.
Kernels choose(const PackedFormat& format, Constants& constants) {
  int8_t table[16], low_table[16];
  std::memcpy(table, &format.table, sizeof(table));
  std::memcpy(low_table, &format.low_table, sizeof(low_table));
  int bias = format.bias;
  Kernels kernels;
  bool is_signed_table = false;
  if (format.layout == Layout::kP8) {
    bias = rows::kSignedBias;
    kernels = find_kernels<Plain<EightBits>, AnyBlock<EightBits, 1, true>>(format);
  } else if (format.layout == Layout::kP6) {
    kernels = find_kernels<Plain<SixBits>, WithOffset<SixBits>, TwoLevel16<SixBits>,
                           TwoLevelOffset<SixBits>>(format);
  } else if (!format.has_table) {
    kernels =
        find_kernels<Plain<Nibbles>, WithOffset<Nibbles>, TwoLevelOffset<Nibbles>,
                     TwoLevel16<Nibbles>, TwoLevelOffset16<Nibbles>, AnyBlock<Nibbles, 1, true>>(
            format);
  } else if (format.two_planes) {
    bias = rows::kWideBias;
    for (int i = 0; i < 16; ++i) {  // the low byte becomes unsigned
      const int entry = 256 * table[i] + low_table[i];
      table[i] = static_cast<int8_t>(entry >> 8);
      low_table[i] = static_cast<int8_t>(entry & 255);
    }
    kernels = find_kernels<AnyBlock<WideTableNibbles, 1, false>>(format);
  } else {
    int least = table[0], most = table[0];
    for (const int8_t value : table) {
      least = value < least ? value : least;
      most = value > most ? value : most;
    }
    if (most - least <= 63) {  // made unsigned, six bits suffice
      bias = -least;
      for (int8_t& value : table) value = static_cast<int8_t>(value - least);
      using Codes = TableNibbles<Range::kU6>;
      kernels = find_kernels<PowerOfTwo<Codes>, AnyBlock<Codes, 2, false>>(format);
    } else {
      bias = rows::kSignedBias;
      is_signed_table = true;
      using Codes = TableNibbles<Range::kSigned>;
      kernels = find_kernels<Plain<Codes>, TwoLevel<Codes>>(format);
    }
  }
  constants.table = rows::load_table(table);
  constants.low_table = rows::load_table(low_table);
  if (is_signed_table) constants.table = rows::prepare_signed(constants.table);
  const bool one_cell = format.block != 16;
  constants.bias[0] = rows::half_weights(-bias, one_cell ? -bias : 0);
  constants.bias[1] = rows::half_weights(0, -bias);
  constants.code_bias = static_cast<int8_t>(bias);
  return kernels;
}

// A tile of tokens, from `token` on, times the `count` sets from `group` on. Returns how many row
// groups those are.
int64_t dot_tile(const RowDotArgs& args, const GroupSets& matrix, const Kernels& kernels,
                 const Constants& constants, int64_t group, int count, int64_t token, Tile& tile) {
  GroupSet sets[kTileSets];
  for (int s = 0; s < count; ++s) sets[s] = matrix.at(group + s * rows::kGroups);
  const DotSets dot = tile.tokens == 1 ? kernels.token : count == 1 ? kernels.one : kernels.several;
  dot(sets, constants, args.quantised, tile);
  for (int64_t t = 0; t < tile.tokens; ++t) {
    for (int s = 0; s < count; ++s) {
      store_results(args, tile.lanes[t].of[s][0], group + s * rows::kGroups, token + t);
    }
  }
  return count * rows::kGroups;
}

}  // namespace

void row_dot_quantised(const RowDotArgs& args) {
  Constants constants;
  const Kernels kernels = choose(args.matrix.shape.format, constants);
  const GroupSets matrix(args);
  const QuantisedRows& x = args.quantised;
  constexpr int64_t kStep = kTileSets * rows::kGroups;
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
      begin_tile(args.matrix.shape.format, x, tile);
      for (int64_t group = begin; group < end;) {
        const bool is_several = tile.tokens > 1 && tile.tokens <= kTokensOfSets &&
                                end - group > (kTileSets - 1) * rows::kGroups;
        group += dot_tile(args, matrix, kernels, constants, group, is_several ? kTileSets : 1,
                          token, tile);
      }
      token += tile.tokens;
    }
  }
}

void row_dot(const RowDotArgs& args) {
  const Layout layout = args.matrix.shape.format.layout;
  if (layout == Layout::kPF || layout == Layout::kF8) {
    row_dot_float(args);
  } else if (args.tokens == 1 && !kReadsOneStream) {
    avx2::row_dot_quantised(args);
  } else if (args.tokens < rows::kTokensLeast) {
    avx512vnni::row_dot_quantised(args);
  } else {
    row_dot_quantised(args);
  }
}

}  // namespace hotset::HOTSET_ISA
