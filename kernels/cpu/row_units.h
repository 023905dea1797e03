// How units of weights meet a token's inputs by vectors of byte dots, in two loops: one token keeps
// its lanes in registers and streams the weights; for several, a chunk of weights is unpacked into
// the L1 cache once for a tile of tokens, whose lanes lie there too. There the integer sums of a
// few tokens and a few sets are under way at once: each load of inputs serves several sets, each of
// weights several tokens (AVX2, Zen 3, Q4_0: 88 against 63 GMAC/s a core with one token and one set
// at a time). Included only by row_dot.cc.
#pragma once

#include "kernels/cpu/row_tile.h"

namespace hotset::HOTSET_ISA {

using rows::Inputs;
using rows::kTileTokens;

// Inputs that one token's wide tables meet again in every set are widened once (3 % of their time),
// if a row has no more units than these.
constexpr int64_t kWideUnits = 128;

struct Tile : TokenTile {
  rows::WideUnit wide[kWideUnits];
};

// Units [first, first + count) of the activations. In memory: g++ 12 would take registers apart,
// with scarce shuffles.
inline void widen(const QuantisedRows& x, int64_t first, int64_t count, rows::WideUnit* wide) {
  for (int64_t u = 0; u < count; ++u) wide[u] = rows::WideUnit(x.q + (first + u) * 32);
  __asm__("" : : : "memory");
}

// Once a tile's tokens are chosen.
inline void begin_tile(const PackedFormat& format, const QuantisedRows& x, Tile& tile) {
  if (tile.tokens == 1 && format.two_planes && x.units <= kWideUnits) {
    widen(x, tile.first_unit[0], x.units, tile.wide);
  }
}

// A unit of a token's activations: 32 inputs and what goes with them.
template <class Kind>
struct Activation {
  const int8_t* q;
  const float* scale;
  const int16_t* half_sum;
  struct Bytewise {
    Bytewise() = default;
    explicit Bytewise(const int8_t*) {}
  };
  [[no_unique_address]] std::conditional_t<Kind::Codes::kIsWide, rows::WideUnit, Bytewise> wide;

  Activation() = default;
  Activation(const QuantisedRows& x, int64_t at)
      : q(x.q + at * 32), scale(x.scale + at), half_sum(x.half_sum + at * 2), wide(x.q + at * 32) {}
  Inputs inputs(int j) const { return rows::four_inputs(q + j * 4); }
  // The sums of a cell's products start here: minus the bias times the sum of its inputs.
  Ints start(const Constants& constants, int cell) const {
    if constexpr (!Kind::Codes::kHasBias) return rows::zero_ints();
    return rows::weigh_halves(half_sum, constants.bias[cell]);
  }
  Ints sum(int cell) const {
    const bool is_first = cell == 0;
    return rows::weigh_halves(half_sum,
                              rows::half_weights(is_first, Kind::kCells == 1 || !is_first));
  }
};

// The sums of products of a cell of kCount sets' unpacked weights with kTokens tokens' inputs. Sums
// and weights are kept in registers by force: g++ 12 makes all products first, has no room for
// them, and loads weights once a token. `zeros`: of each set, where the kind has them.
template <class Kind, int kCell, int kTokens, int kCount>
inline void byte_dots(const Weights<Kind>* w, const Activation<Kind>* a, const Constants& constants,
                      const Ints* zeros, Ints (*sum)[kCount]) {
  constexpr Range kRange = Kind::Codes::kRange;
  constexpr int kVectors = 8 / Kind::kCells;
  Ints start[kTokens];
  const auto start_of = [&](int t, int s) {
    if constexpr (!Kind::kHasZeros) return start[t];
    return rows::weigh_rows(a[t].half_sum, zeros[s]);
  };
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    if constexpr (!Kind::kHasZeros) start[t] = a[t].start(constants, kCell);
#pragma GCC unroll 8
    for (int s = 0; s < kCount; ++s) sum[t][s] = rows::begin<kRange>(start_of(t, s));
  }
#pragma GCC unroll 8
  for (int j = kCell * kVectors; j < (kCell + 1) * kVectors; j += 2) {
    Inputs x0[kTokens], x1[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      x0[t] = a[t].inputs(j);
      x1[t] = a[t].inputs(j + 1);
    }
#pragma GCC unroll 8
    for (int s = 0; s < kCount; ++s) {
      const Bytes w0 = rows::keep(w[s][j]);
      const Bytes w1 = rows::keep(w[s][j + 1]);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        sum[t][s] = rows::keep(rows::add_products<kRange>(sum[t][s], w0, x0[t], w1, x1[t]));
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
    for (int s = 0; s < kCount; ++s) sum[t][s] = rows::finish<kRange>(sum[t][s], start_of(t, s));
  }
}

// The same of wide weights, a unit being one cell. Two sums a row are under way: so two sets at
// once.
template <class Kind, int kTokens, int kCount>
inline void wide_dots(const Weights<Kind>* w, const Activation<Kind>* a, const Constants& constants,
                      Ints (*sum)[kCount]) {
  constexpr int kStep = kCount < 2 ? kCount : 2;
#pragma GCC unroll 4
  for (int first = 0; first < kCount; first += kStep) {
    rows::WideSums sums[kTokens][kStep] = {};
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      Inputs x[kTokens];
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) x[t] = rows::keep(a[t].wide.four(j));
#pragma GCC unroll 8
      for (int s = 0; s < kStep; ++s) {
        const Bytes* const both = w[first + s] + 2 * j;
        const Bytes two[2] = {rows::keep(both[0]), rows::keep(both[1])};
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          sums[t][s] = rows::add_wide_products(sums[t][s], two, x[t]);
        }
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
      for (int s = 0; s < kStep; ++s) {
        sum[t][first + s] = rows::finish_wide(sums[t][s], a[t].start(constants, 0));
      }
    }
  }
}

template <class Kind, int kCell, int kTokens, int kCount>
inline void cell_dots(const Weights<Kind>* w, const Activation<Kind>* a, const Constants& constants,
                      const Ints* zeros, Ints (*sum)[kCount]) {
  if constexpr (Kind::Codes::kIsWide) {
    wide_dots<Kind, kTokens, kCount>(w, a, constants, sum);
  } else {
    byte_dots<Kind, kCell, kTokens, kCount>(w, a, constants, zeros, sum);
  }
}

// A unit of one token and one set: products while the weights are unpacked, which would not find
// room in registers.
template <class Kind>
inline Ints wide_dot(const GroupSet& set, const Constants& constants, int64_t unit,
                     const Activation<Kind>& a, const rows::WideUnit& inputs) {
  rows::WideSums sums = {};
  Kind::Codes::each(set, constants, unit, [&](int j, const Bytes* w) {
    sums = rows::add_wide_products(sums, w, inputs.four(j));
  });
  return rows::finish_wide(sums, a.start(constants, 0));
}

// Hints for one token on processors that follow codes best when led. Two threads, from memory, of
// the read bandwidth, with no hints, those of Kind::prefetch, and these: Q4_0 gate 78, 72, 93 %,
// down 76, 69, 84, Q4_K 72, 73, 83, Q6_K 86, 84, 86, Q8_0 95, 86, 99. Whole pages ahead and less
// than 2,304 bytes are worth less, and the scales' hints undo them. In a loop of units unrolled a
// distance 128 bytes longer changes much; without hints a loop of single ones is the slowest.
constexpr int64_t kLeadBytes = 3072;

template <class Kind>
inline void lead_codes(const GroupSet& set, int64_t unit) {
  constexpr int kBytes = Kind::Codes::kUnitBytes;
  for (int i = 0; i < kBytes; i += 64) {
    rows::prefetch(set.codes.at + unit * kBytes + kLeadBytes + i);
  }
}

// One token times one set. The lanes stay in registers, for which a chunk's units are unrolled, but
// for kLeadsCodes.
template <class Kind, bool kLeadsCodes>
void dot_token(const GroupSet* sets, const Constants& constants, const QuantisedRows& x,
               Tile& tile) {
  const GroupSet& set = sets[0];
  Floats lane[8];
  for (Floats& l : lane) l = rows::zero();
  for (int64_t unit0 = 0; unit0 < set.units; unit0 += kChunkUnits) {
    const typename Kind::Supers supers = Kind::supers(set, unit0 / kChunkUnits);
    [[maybe_unused]] const rows::WideUnit* wide = tile.wide;
    if (Kind::Codes::kIsWide) {
      if (set.units <= kWideUnits) {
        wide += unit0;
      } else {
        const int64_t left = set.units - unit0;
        widen(x, tile.first_unit[0] + unit0, left < kChunkUnits ? left : kChunkUnits, tile.wide);
      }
    }
    const auto add_unit = [&](int u) __attribute__((always_inline)) {
      const int64_t unit = unit0 + u;
      Weights<Kind> w[1];
      if constexpr (!Kind::Codes::kIsWide) Kind::Codes::unpack(set, constants, unit, w[0]);
      if constexpr (kLeadsCodes) {
        lead_codes<Kind>(set, unit);
      } else {
        Kind::prefetch(set, unit);
      }
      const Activation<Kind> a(x, tile.first_unit[0] + unit);
      const auto add = [&]<int kCell>() {
        Floats& l = lane[(u * Kind::kCells + kCell) % 8];
        const int64_t block = unit * Kind::kCells + kCell;
        Ints idot[1][1], zeros = rows::zero_ints();
        if constexpr (Kind::kHasZeros) zeros = Kind::zeros(set, block);
        if constexpr (Kind::Codes::kIsWide) {
          idot[0][0] = wide_dot<Kind>(set, constants, unit, a, wide[u]);
        } else {
          byte_dots<Kind, kCell, 1, 1>(w, &a, constants, &zeros, idot);
        }
        const Floats scale = rows::broadcast(*a.scale);
        l = add_scaled(l, idot[0][0], Kind::scale(set, supers, block), scale);
        if constexpr (Kind::kHasOffset) {
          l = add_scaled(l, a.sum(kCell), Kind::offset(set, supers, block), scale);
        }
      };
      add.template operator()<0>();
      if constexpr (Kind::kCells == 2) add.template operator()<1>();
    };
    const int64_t left = set.units - unit0;
    if constexpr (kLeadsCodes) {
      const int units = static_cast<int>(left < kChunkUnits ? left : kChunkUnits);
#pragma GCC unroll 1
      for (int u = 0; u < units; ++u) add_unit(u);
    } else {
#pragma GCC unroll 8
      for (int u = 0; u < kChunkUnits; ++u) {
        if (u == left) break;
        add_unit(u);
      }
    }
  }
  for (int i = 0; i < 8; ++i) rows::store(tile.lanes[0].of[0][i], lane[i]);
}

// Adds unit `unit`, unpacked into w, of kCount sets to the lanes of kTokens tokens from `token` on.
// kIsFirst: its cells are the first of their lanes, which hold nothing yet.
template <class Kind, int kTokens, int kCount, bool kIsFirst>
inline void add_unit(const Weights<Kind>* w, const Constants& constants, const QuantisedRows& x,
                     int64_t unit, const Factors<Kind>* factors, Tile& tile, int64_t token) {
  Activation<Kind> a[kTokens];
  for (int t = 0; t < kTokens; ++t) a[t] = {x, tile.first_unit[token + t] + unit};
  const auto add = [&]<int kCell>() {
    const int64_t cell = unit * Kind::kCells + kCell;
    const int64_t in_chunk = cell % (kChunkUnits * Kind::kCells), place = in_chunk * kRows;
    Ints idot[kTokens][kCount], zeros[kCount] = {};
    if constexpr (Kind::kHasZeros) {
      for (int s = 0; s < kCount; ++s) zeros[s] = factors[s].zeros[in_chunk];
    }
    cell_dots<Kind, kCell, kTokens, kCount>(w, a, constants, zeros, idot);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const Floats scale = rows::broadcast(*a[t].scale);
#pragma GCC unroll 8
      for (int s = 0; s < kCount; ++s) {
        float* const lane = tile.lanes[token + t].of[s][cell % 8];
        Floats sum = kIsFirst ? rows::zero() : rows::load(lane);
        sum = add_scaled(sum, idot[t][s], rows::load(factors[s].scales + place), scale);
        if constexpr (Kind::kHasOffset) {
          sum = add_scaled(sum, a[t].sum(kCell), rows::load(factors[s].offsets + place), scale);
        }
        rows::store(lane, sum);
      }
    }
  };
  add.template operator()<0>();
  if constexpr (Kind::kCells == 2) add.template operator()<1>();
}

// Units [unit0, unit0 + units) of a chunk, unpacked into w.
template <class Kind, int kCount, bool kIsFirst>
inline void add_units(const Weights<Kind> (*w)[kCount], const Constants& constants,
                      const QuantisedRows& x, int64_t unit0, int64_t units,
                      const Factors<Kind>* factors, Tile& tile) {
  int64_t token = 0;
  for (; token + kTileTokens <= tile.tokens; token += kTileTokens) {
    for (int64_t u = 0; u < units; ++u) {
      add_unit<Kind, kTileTokens, kCount, kIsFirst>(w[u], constants, x, unit0 + u, factors, tile,
                                                    token);
    }
  }
  for (; kTileTokens > 1 && token < tile.tokens; ++token) {
    for (int64_t u = 0; u < units; ++u) {
      add_unit<Kind, 1, kCount, kIsFirst>(w[u], constants, x, unit0 + u, factors, tile, token);
    }
  }
}

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

// One token and one set, hinted one way or the other (null where another instruction set does
// that); a tile and one set; a tile and kTileSets at once, for which each load of inputs serves
// them all.
struct Kernels {
  DotSets token, led_token, one, several;
};

template <class Kind>
constexpr Kernels kernels_of = [] {
  Kernels kernels = {nullptr, nullptr, dot_sets<Kind, 1>, dot_sets<Kind, kTileSets>};
  if constexpr (kReadsOneStream) {
    kernels.token = dot_token<Kind, false>;
    kernels.led_token = dot_token<Kind, true>;
  }
  return kernels;
}();

// Row groups walked for one tile before the next tile starts: their codes (and the tile's
// activations) should stay in the L2 cache.
constexpr int64_t kBlockBytes = 192 * 1024;

// A tile of tokens, from `token` on, times the `count` sets from `group` on. Returns how many row
// groups those are.
inline int64_t dot_tile(const RowDotArgs& args, const GroupSets& matrix, const Kernels& kernels,
                        const Constants& constants, int64_t group, int count, int64_t token,
                        Tile& tile) {
  GroupSet sets[kTileSets];
  for (int s = 0; s < count; ++s) sets[s] = matrix.at(group + s * rows::kGroups);
  const DotSets dot_one = args.leads_codes ? kernels.led_token : kernels.token;
  const DotSets dot = tile.tokens == 1 ? dot_one : count == 1 ? kernels.one : kernels.several;
  dot(sets, constants, args.quantised, tile);
  for (int64_t t = 0; t < tile.tokens; ++t) {
    for (int s = 0; s < count; ++s) {
      store_results(args, tile.lanes[t].of[s][0], group + s * rows::kGroups, token + t);
    }
  }
  return count * rows::kGroups;
}

inline void dot_rows(const RowDotArgs& args, const Kernels& kernels, const Constants& constants) {
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
        const bool is_several = tile.tokens > 1 && end - group > (kTileSets - 1) * rows::kGroups;
        group += dot_tile(args, matrix, kernels, constants, group, is_several ? kTileSets : 1,
                          token, tile);
      }
      token += tile.tokens;
    }
  }
}

}  // namespace hotset::HOTSET_ISA
