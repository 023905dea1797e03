// How units of weights meet tokens' inputs by a matrix unit: it makes the integer sums of a cell's
// 16 tokens and 16 rows at once, vectors scale them and add them to the lanes. Each lane is walked
// on its own, so that the tokens' sums of a lane stay in registers. For that the cells of a row lie
// by lanes (those of lane 0 first), both the tokens' inputs, gathered once for all rows of a call,
// and a set's weights, unpacked once for all tiles. Included only by row_dot.cc.
#pragma once

#include "kernels/cpu/row_codes.h"

namespace hotset::HOTSET_ISA {

using rows::kTileRows;

// Tokens times units that are gathered at once: 128 tokens of 2,048 inputs. With the weights of a
// task they should fit into the L2 cache (2 MB on every processor that has AMX).
constexpr int64_t kGathered = 8192;
static_assert(kGathered / rows::kUnitsMost >= kTileRows);

// Where the cells of a row lie.
class CellPlaces {
 public:
  explicit CellPlaces(int64_t cells) : cells_(cells) {
    for (int64_t lane = 1; lane < 8; ++lane) begin_[lane] = begin_[lane - 1] + cells_of(lane - 1);
  }
  int64_t cells() const { return cells_; }
  int64_t cells_of(int64_t lane) const { return (cells_ - lane + 7) / 8; }
  int64_t operator()(int64_t cell) const { return begin_[cell % 8] + cell / 8; }

 private:
  int64_t cells_, begin_[8] = {};
};

// Tiles of `rows` tokens each.
struct TokenTiles {
  int64_t rows = 0, tiles = 0;
  // Of each tile and cell: [kTileRows] tokens.
  alignas(64) int8_t inputs[kGathered * 32];
  alignas(64) float scales[kGathered * 2];
  alignas(64) int16_t half_sums[kGathered * 2][2];
};

// Gathers the tokens of a tile, whose units begin at from[t] in x, to its cells, which begin at
// `tile_at`. A cell of half a unit gets the sum of its own half, with 0 in place of the other.
template <int kCells>
inline void gather_tile(const QuantisedRows& x, const int64_t (&from)[kTileRows], int64_t tokens,
                        bool has_sums, int64_t tile_at, TokenTiles& to) {
  constexpr int64_t kBytes = 32 / kCells;
  const CellPlaces places(x.units * kCells);
  for (int64_t cell = 0; cell < places.cells(); ++cell) {
    const int64_t at = (tile_at + places(cell)) * kTileRows, unit = cell / kCells;
    const int64_t half = cell % kCells;
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t row_unit = from[t] + unit;
      std::memcpy(to.inputs + (at + t) * kBytes, x.q + row_unit * 32 + half * kBytes, kBytes);
      to.scales[at + t] = x.scale[row_unit];
    }
    for (int64_t t = 0; has_sums && t < tokens; ++t) {
      std::memcpy(to.half_sums[at + t], x.half_sum + (from[t] + unit) * 2, 4);
      if (kCells == 2) to.half_sums[at + t][1 - half] = 0;
    }
  }
}

// Gathers tokens [first, first + count) of args. Where the last tile lacks some there is whatever
// was there: the sums are not stored.
inline void gather(const RowDotArgs& args, int64_t first, int64_t count, TokenTiles& to) {
  const QuantisedRows& x = args.quantised;
  const bool has_halves = args.matrix.shape.format.block == 16;
  const bool has_sums = args.matrix.shape.format.offset != OffsetKind::kNone;
  const auto gather_one = has_halves ? gather_tile<2> : gather_tile<1>;
  to.tiles = (count + to.rows - 1) / to.rows;
  for (int64_t tile = 0; tile < to.tiles; ++tile) {
    const int64_t token = tile * to.rows, left = count - token;
    const int64_t tokens = left < to.rows ? left : to.rows;
    int64_t from[kTileRows];
    for (int64_t t = 0; t < tokens; ++t) {
      from[t] = activation_row(args, first + token + t) * x.units;
    }
    gather_one(x, from, tokens, has_sums, tile * x.units * (has_halves ? 2 : 1), to);
  }
}

// The cells of a set, as they are unpacked: all of them if several tiles need them, else the last
// few, which stay in the L1 cache.
template <class Kind>
struct SetCells {
  static constexpr int64_t kMost = rows::kUnitsMost * Kind::kCells, kLast = 8;
  static constexpr int kVectors = (Kind::Codes::kIsWide ? 16 : 8) / Kind::kCells;  // of a cell

  Bytes weights[kMost][kVectors];
  Floats scales[kMost], offsets[Kind::kHasOffset ? kMost : 1];
  Ints zeros[Kind::kHasZeros ? kMost : 1];

  // Part kPart of a unit becomes the cell at `to`: codes become the weights that they stand for, so
  // that no bias is left to be taken off each sum.
  template <int kPart>
  void unpack(const GroupSet& set, const Constants& constants, int64_t unit, int64_t to) {
    Weights<Kind> all;  // what is not of this part is dropped by the compiler
    Kind::Codes::unpack(set, constants, unit, all);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      Bytes four = all[kPart * kVectors + v];
      if constexpr (Kind::Codes::kHasBias && !Kind::kHasZeros) {
        four = rows::minus_bias(four, constants.code_bias);
      }
      weights[to][v] = four;
    }
    const typename Kind::Supers supers = Kind::supers(set, unit / kChunkUnits);
    const int64_t cell = unit * Kind::kCells + kPart;
    scales[to] = Kind::scale(set, supers, cell);
    if constexpr (Kind::kHasOffset) offsets[to] = Kind::offset(set, supers, cell);
    if constexpr (Kind::kHasZeros) zeros[to] = Kind::zeros(set, cell);
  }
};

// A tile's sums; a token's not a power of two apart, or loads would wait for stores at the same
// place of another page.
struct TileLanes {
  struct OfToken {
    alignas(64) float of[8][kRows];
    float gap[kRows];
  } tokens[kTileRows];
};

// The gathered tiles times one set. What a step needs is in local variables: from memory it would
// be loaded again after each instruction of the matrix unit.
template <class Kind>
class SetDot {
 public:
  SetDot(const GroupSet& set, const Constants& constants, const TokenTiles& tokens)
      : set_(set), constants_(constants), tokens_(tokens), places_(set.units * Kind::kCells) {}

  // kUnpacks: the first tile, which unpacks the weights as it goes; kMask: see SetCells.
  // While a cell is multiplied, the sums of the one before are stored, and those before them added,
  // since a load would wait for a tile's store; and one is unpacked that is multiplied kAhead steps
  // later, since its stores wait for those of the sums before them.
  template <bool kUnpacks, int64_t kMask>
  void run(int64_t tile, TileLanes& lanes) {
    const int64_t cells = places_.cells(), at = tile * cells * kTileRows;
    const int8_t* const inputs = tokens_.inputs + at * kCellBytes;
    const float* const scales = tokens_.scales + at;
    const int16_t(*const half_sums)[2] = tokens_.half_sums + at;
    const auto tile_rows = static_cast<int>(tokens_.rows);
    Cells& set = cells_;
    Sums* const stored = stored_;
    if (cells < 8) std::memset(&lanes, 0, sizeof(lanes));
    Floats sums[kTileRows];
    int64_t lane = -1, left = 0;
    int64_t next = 0;
    if (kUnpacks) {
      for (int64_t i = 0; i < kAhead && i < cells; ++i) next = unpack<kMask>(next, i);
    }
    const auto step = [&]<int kParity>(int64_t i) __attribute__((always_inline)) {
      if (i < cells) {
        begin<kParity>(inputs + i * kTileRows * kCellBytes, set.weights[i & kMask]);
      }
      if (kUnpacks && i + kAhead < cells) next = unpack<kMask>(next, i + kAhead);
      if (i >= 1 && i <= cells) store<1 - kParity>(stored[1 - kParity]);
      if (i < 2 || i >= cells + 2) return;
      if (left == 0) {
#pragma GCC unroll 16
        for (Floats& sum : sums) sum = rows::zero();
        left = places_.cells_of(++lane);
      }
      const int64_t added = i - 2;
      add(stored[kParity], set, added & kMask, scales + added * kTileRows,
          half_sums + added * kTileRows, tile_rows, sums);
      if (--left > 0) return;
#pragma GCC unroll 16
      for (int t = 0; t < kTileRows; ++t) rows::store(lanes.tokens[t].of[lane], sums[t]);
    };
    for (int64_t i = 0; i < cells + 2; i += 2) {
      step.template operator()<0>(i);
      step.template operator()<1>(i + 1);
    }
  }

 private:
  using Cells = SetCells<Kind>;
  using Sums = int32_t[2][kTileRows][kRows];  // the second: of low bytes, if weights are wide
  static constexpr bool kIsWide = Kind::Codes::kIsWide;
  static constexpr int kCellBytes = 32 / Kind::kCells;
  static constexpr int kAhead = 4;
  static_assert(kAhead + 2 < Cells::kLast);

  // Returns the cell that comes after `cell`: those of a lane follow each other.
  template <int64_t kMask>
  int64_t unpack(int64_t cell, int64_t place) {
    const int64_t unit = cell / Kind::kCells, to = place & kMask;
    if (place % Kind::kCells == 0) Kind::prefetch(set_, place / Kind::kCells);  // in memory's order
    if (Kind::kCells == 1 || cell % 2 == 0) {
      cells_.template unpack<0>(set_, constants_, unit, to);
    } else {
      cells_.template unpack<Kind::kCells - 1>(set_, constants_, unit, to);
    }
    const int64_t next = cell + 8;
    return next < places_.cells() ? next : next % 8 + 1;
  }

  // Tile registers: 0 holds inputs, 2 (and 3, of low bytes) weights, 4 and 5 sums by parity, 6 and
  // 7 those of low bytes.
  template <int kParity>
  static void begin(const int8_t* inputs, const Bytes* w) {
    constexpr int kStride = kIsWide ? 128 : 64;
    rows::load_tile<0>(inputs, kCellBytes);
    rows::load_tile<2>(w, kStride);
    rows::clear_tile<4 + kParity>();
    rows::multiply_tiles<4 + kParity, 0, 2>();
    if constexpr (kIsWide) {
      rows::load_tile<3>(w + 1, kStride);
      rows::clear_tile<6 + kParity>();
      rows::multiply_tiles<6 + kParity, 0, 3, false>();
    }
  }
  template <int kParity>
  static void store(Sums& to) {
    rows::store_tile<4 + kParity>(to[0][0]);
    if constexpr (kIsWide) rows::store_tile<6 + kParity>(to[1][0]);
  }
  [[gnu::always_inline]] static void add(const Sums& stored, const Cells& set, int64_t at,
                                         const float* scales, const int16_t (*half_sums)[2],
                                         int tile_rows, Floats* sums) {
    const Ints ones = rows::half_weights(1, 1);
    const Floats of_rows = set.scales[at];
#pragma GCC unroll 16
    for (int t = 0; t < kTileRows; ++t) {
      if (t % 2 == 0 && t >= tile_rows) break;  // two at a time: half as many branches
      Ints sum = rows::load_ints(stored[0][t]);
      if constexpr (kIsWide) sum = rows::join_wide(sum, rows::load_ints(stored[1][t]));
      if constexpr (Kind::kHasZeros) {
        sum = rows::add_ints(sum, rows::weigh_rows(half_sums[t], set.zeros[at]));
      }
      const Floats scale = rows::broadcast(scales[t]);
      sums[t] = add_scaled(sums[t], sum, of_rows, scale);
      if constexpr (Kind::kHasOffset) {
        sums[t] =
            add_scaled(sums[t], rows::weigh_halves(half_sums[t], ones), set.offsets[at], scale);
      }
    }
  }

  const GroupSet& set_;
  const Constants& constants_;
  const TokenTiles& tokens_;
  const CellPlaces places_;
  alignas(64) Sums stored_[2];
  Cells cells_;
};

// All gathered tokens, whose first is `token`, times the set of row groups at `group`.
template <class Kind>
void dot_set(const RowDotArgs& args, const GroupSets& matrix, const Constants& constants,
             const TokenTiles& tokens, int64_t group, int64_t token) {
  const GroupSet set = matrix.at(group);
  SetDot<Kind> dot(set, constants, tokens);
  TileLanes lanes;
  for (int64_t tile = 0; tile < tokens.tiles; ++tile) {
    if (tokens.tiles == 1) {
      dot.template run<true, SetCells<Kind>::kLast - 1>(tile, lanes);
    } else if (tile == 0) {
      dot.template run<true, -1>(tile, lanes);
    } else {
      dot.template run<false, -1>(tile, lanes);
    }
    const int64_t first = token + tile * tokens.rows, left = args.tokens - first;
    for (int64_t t = 0; t < tokens.rows && t < left; ++t) {
      store_results(args, lanes.tokens[t].of[0], group, first + t);
    }
  }
}

using Kernels = void (*)(const RowDotArgs&, const GroupSets&, const Constants&, const TokenTiles&,
                         int64_t, int64_t);
template <class Kind>
constexpr Kernels kernels_of = dot_set<Kind>;

// The tile registers as long as they are used.
class TileRegisters {
 public:
  TileRegisters(const PackedFormat& format, int64_t tokens) {
    const auto n = static_cast<uint8_t>(tokens);
    rows::shape_tiles(format.block == 16 ? 16 : 32, {n, n, 0, 0, n, n, n, n});
  }
  ~TileRegisters() { rows::release_tiles(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

inline void dot_rows(const RowDotArgs& args, Kernels dot, const Constants& constants) {
  const GroupSets matrix(args);
  const int64_t tiles = (args.tokens + kTileRows - 1) / kTileRows;
  TokenTiles tokens;
  tokens.rows = (args.tokens + tiles - 1) / tiles;
  const int64_t tiles_at_once = kGathered / (args.quantised.units * kTileRows);
  const TileRegisters registers(args.matrix.shape.format, tokens.rows);
  for (int64_t token = 0; token < args.tokens;) {
    const int64_t left = args.tokens - token, most = tiles_at_once * tokens.rows;
    const int64_t count = left < most ? left : most;
    gather(args, token, count, tokens);
    for (int64_t group = args.group_begin; group < args.group_end; group += rows::kGroups) {
      dot(args, matrix, constants, tokens, group, token);
    }
    token += count;
  }
}

}  // namespace hotset::HOTSET_ISA
