// How units of weights meet a tile of tokens' inputs by a matrix unit: it makes the integer sums of
// 16 tokens and 16 rows at once, vectors scale them and add them to the lanes. Two such products
// are under way together, of two sets of rows or of twice the tokens, and three cells: while one is
// multiplied, the sums of the one before are stored, and those before them added, since a load
// would wait for a tile's store. Included only by row_dot.cc.
#pragma once

#include "kernels/cpu/row_tile.h"

namespace hotset::HOTSET_ISA {

// Tokens' rows are gathered once for all sets if they have no more units than these, else a chunk
// at a time.
constexpr int64_t kGatheredUnits = 128;
// A gathered row begins on another line than the one before would in the L1 cache.
constexpr int64_t kInputBytes = kGatheredUnits * 32 + 64, kScales = kGatheredUnits + 16;

struct Tile : TokenTile {
  Tile() = default;
  Tile(const Tile&) = delete;
  Tile& operator=(const Tile&) = delete;
  ~Tile() { rows::release_tiles(); }

  alignas(64) int8_t inputs[kTile][kInputBytes];
  alignas(64) float scales[kTile][kScales];
  alignas(64) int16_t half_sums[kTile][kScales][2];
  // Of an even and an odd cell, of two products; the second of each: of low bytes, if weights are
  // wide.
  alignas(64) int32_t sums[2][2][2][rows::kTileRows][kRows];
};

// Units [first, first + count) of each token.
inline void gather(const QuantisedRows& x, int64_t first, int64_t count, Tile& tile) {
  const auto units = static_cast<size_t>(count);
  for (int64_t t = 0; t < tile.tokens; ++t) {
    const int64_t from = tile.first_unit[t] + first;
    std::memcpy(tile.inputs[t], x.q + from * 32, units * 32);
    std::memcpy(tile.scales[t], x.scale + from, units * 4);
    std::memcpy(tile.half_sums[t], x.half_sum + from * 2, units * 4);
  }
}

// Once a tile's tokens are chosen.
inline void begin_tile(const PackedFormat& format, const QuantisedRows& x, Tile& tile) {
  const bool has_second = tile.tokens > rows::kTileRows;
  const auto first = static_cast<uint8_t>(has_second ? rows::kTileRows : tile.tokens);
  const auto second = static_cast<uint8_t>(has_second ? tile.tokens - first : first);
  const bool is_wide = format.two_planes;
  rows::shape_tiles(
      format.block == 16 ? 16 : 32,
      {first, second, 0, 0, first, is_wide ? first : second, is_wide ? second : first, second});
  if (x.units <= kGatheredUnits) gather(x, 0, x.units, tile);
}

// Codes become the weights that they stand for: no bias is left to be taken off each sum.
template <class Kind>
inline void prepare(const Constants& constants, Weights<Kind>& w) {
  if constexpr (Kind::Codes::kHasBias && !Kind::kHasZeros) {
    for (Bytes& four : w) four = rows::minus_bias(four, constants.code_bias);
  }
}

// One token streams the weights: vectors do that.
template <class Kind>
constexpr void (*dot_token)(const GroupSet*, const Constants&, const QuantisedRows&,
                            Tile&) = nullptr;

// Product kProduct of a cell: begun, and its sums stored.
template <class Kind, int kProduct, int kParity>
struct Product {
  static constexpr bool kIsWide = Kind::Codes::kIsWide;
  static constexpr int kSums = kIsWide ? 4 + 2 * kProduct : 4 + 2 * kParity + kProduct;

  template <int kInputs, int kWeights>
  static void begin(const Weights<Kind>& w, int cell) {
    constexpr int kStride = kIsWide ? 128 : 64;
    rows::clear_tile<kSums>();
    if constexpr (kIsWide) {
      rows::load_tile<kWeights>(w, kStride);
      rows::multiply_tiles<kSums, kInputs, kWeights>();
      rows::clear_tile<kSums + 1>();
      rows::load_tile<kWeights>(w + 1, kStride);
      rows::multiply_tiles<kSums + 1, kInputs, kWeights, false>();
    } else {
      if (kProduct == 0 || kWeights != 2) rows::load_tile<kWeights>(w + cell * 4, kStride);
      rows::multiply_tiles<kSums, kInputs, kWeights>();
    }
  }
  static void store(int32_t (*sums)[2][rows::kTileRows][kRows]) {
    rows::store_tile<kSums>(sums[kProduct][0][0]);
    if constexpr (kIsWide) rows::store_tile<kSums + 1>(sums[kProduct][1][0]);
  }
};

// What a cell's sums of one set are multiplied by.
template <class Kind>
struct CellFactors {
  Floats scale, offset = rows::zero();
  Ints zeros = rows::zero_ints();

  CellFactors(const Factors<Kind>& factors, int64_t in_chunk)
      : scale(rows::load(factors.scales + in_chunk * kRows)) {
    if constexpr (Kind::kHasOffset) offset = rows::load(factors.offsets + in_chunk * kRows);
    if constexpr (Kind::kHasZeros) zeros = factors.zeros[in_chunk];
  }
};

// Adds a cell's sums of one set and kTokens tokens to a lane of each. All are the first token's,
// the others' follow at fixed distances, so that addresses cost no instructions.
template <class Kind, int kCell, bool kIsFirst, int kTokens>
inline void add_tokens(const int32_t (*high)[kRows], const int32_t (*low)[kRows],
                       const CellFactors<Kind>& by, const float* scales, const int16_t* half_sums,
                       float* lanes) {
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) {
    const int16_t* const half_sum = half_sums + t * 2 * kScales;
    Ints sum = rows::load_ints(high[t]);
    if constexpr (Kind::Codes::kIsWide) sum = rows::join_wide(sum, rows::load_ints(low[t]));
    if constexpr (Kind::kHasZeros) {
      sum = rows::add_ints(sum, rows::weigh_rows(half_sum, by.zeros));
    }
    const Floats scale = rows::broadcast(scales[t * kScales]);
    float* const lane = lanes + t * (sizeof(Lanes) / sizeof(float));
    Floats result = kIsFirst ? rows::zero() : rows::load(lane);
    result = add_scaled(result, sum, by.scale, scale);
    if constexpr (Kind::kHasOffset) {
      constexpr bool kIsWhole = Kind::kCells == 1;
      const Ints weights = rows::half_weights(kCell == 0, kIsWhole || kCell == 1);
      result = add_scaled(result, rows::weigh_halves(half_sum, weights), by.offset, scale);
    }
    rows::store(lane, result);
  }
}

// Of product kProduct's set and tokens, whose first is `first`.
template <class Kind, int kCell, bool kIsFirst>
inline void add_sums(const int32_t (*sums)[rows::kTileRows][kRows], const CellFactors<Kind>& by,
                     int64_t tokens, Tile& tile, int64_t first, int64_t at, int s, int64_t lane) {
  const auto add = [&]<int kTokens>(int64_t t) {
    add_tokens<Kind, kCell, kIsFirst, kTokens>(
        sums[0] + t, sums[1] + t, by, tile.scales[first + t] + at, tile.half_sums[first + t][at],
        tile.lanes[first + t].of[s][lane]);
  };
  if (tokens == rows::kTileRows) {
    add.template operator()<rows::kTileRows>(0);
    return;
  }
  int64_t t = 0;
  for (; t + 4 <= tokens; t += 4) add.template operator()<4>(t);
  for (; t < tokens; ++t) add.template operator()<1>(t);
}

// Units [unit0, unit0 + units) of a chunk, unpacked into w, times one or two products.
template <class Kind, int kCount, bool kIsFirst, int kProducts>
inline void add_products(const Weights<Kind> (*w)[kCount], int64_t unit0, int64_t units,
                         int64_t first, const Factors<Kind>* factors, Tile& tile) {
  constexpr int kCells = Kind::kCells;
  constexpr bool kIsWide = Kind::Codes::kIsWide;
  const int64_t cells = units * kCells;

  const auto begin = [&]<int kParity>(int64_t cell) {
    constexpr int kInUnit = kCells == 2 ? kParity : 0;
    const int64_t u = cell / kCells;
    const int8_t* const inputs = tile.inputs[0] + (first + u) * 32 + kInUnit * 16;
    rows::load_tile<0>(inputs, kInputBytes);
    Product<Kind, 0, kParity>::template begin<0, 2>(w[u][0], kInUnit);
    if constexpr (kCount == 2) {
      Product<Kind, 1, kParity>::template begin<0, 3>(w[u][1], kInUnit);
    } else if constexpr (kProducts == 2) {
      rows::load_tile<1>(inputs + rows::kTileRows * kInputBytes, kInputBytes);
      Product<Kind, 1, kParity>::template begin<1, 2>(w[u][0], kInUnit);
    }
  };
  const auto store = [&]<int kParity>() {
    Product<Kind, 0, kParity>::store(tile.sums[kParity]);
    if constexpr (kProducts == 2) Product<Kind, 1, kParity>::store(tile.sums[kParity]);
  };
  const auto add = [&]<int kParity>(int64_t cell) {
    constexpr int kCell = kCells == 2 ? kParity : 0;
    const int64_t of_row = unit0 * kCells + cell;
#pragma GCC unroll 2
    for (int p = 0; p < kProducts; ++p) {
      const int64_t t = kCount == 2 ? 0 : p * rows::kTileRows;
      const int s = kCount == 2 ? p : 0;
      const int64_t left = tile.tokens - t;
      add_sums<Kind, kCell, kIsFirst>(
          tile.sums[kParity][p], CellFactors<Kind>(factors[s], of_row % (kChunkUnits * kCells)),
          left < rows::kTileRows ? left : rows::kTileRows, tile, t, first + cell / kCells, s,
          of_row % 8);
    }
  };
  const auto step = [&]<int kParity>(int64_t cell) {
    const bool has_last = cell >= 1 && cell <= cells;
    // Wide weights leave no tiles for a second cell.
    if (kIsWide && has_last) store.template operator()<1 - kParity>();
    if (cell < cells) begin.template operator()<kParity>(cell);
    if (!kIsWide && has_last) store.template operator()<1 - kParity>();
    if (cell >= 2 && cell < cells + 2) add.template operator()<kParity>(cell - 2);
  };
  for (int64_t cell = 0; cell < cells + 2; cell += 2) {
    step.template operator()<0>(cell);
    step.template operator()<1>(cell + 1);
  }
}

// kIsFirst: the units' cells are the first of their lanes, which hold nothing yet.
template <class Kind, int kCount, bool kIsFirst>
inline void add_units(const Weights<Kind> (*w)[kCount], const Constants&, const QuantisedRows& x,
                      int64_t unit0, int64_t units, const Factors<Kind>* factors, Tile& tile) {
  const bool is_gathered = x.units <= kGatheredUnits;
  if (!is_gathered) gather(x, unit0, units, tile);
  const int64_t first = is_gathered ? unit0 : 0;
  if constexpr (kCount == 2) {
    add_products<Kind, kCount, kIsFirst, 2>(w, unit0, units, first, factors, tile);
  } else if (tile.tokens > rows::kTileRows) {
    add_products<Kind, kCount, kIsFirst, 2>(w, unit0, units, first, factors, tile);
  } else {
    add_products<Kind, kCount, kIsFirst, 1>(w, unit0, units, first, factors, tile);
  }
}

}  // namespace hotset::HOTSET_ISA
