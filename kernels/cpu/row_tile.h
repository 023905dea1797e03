// What vectors' row dots of several tokens keep in the L1 cache: a tile of tokens and its sums, and
// a chunk's scales. Included only by row_units.h.
#pragma once

#include "kernels/cpu/row_codes.h"

namespace hotset::HOTSET_ISA {

using rows::kTileSets;

constexpr int kTile = 16;  // tokens: 16 KB of lanes at 64 or 32 rows

// A token's sums. Not a power of two apart: a load would wait for a store at the same place of
// another page.
struct Lanes {
  alignas(64) float of[kTileSets][8][kRows];
  float gap[16];
};

struct TokenTile {
  int64_t tokens;
  int64_t first_unit[kTile];  // of the token's row in QuantisedRows
  Lanes lanes[kTile];
};

// The scales, offsets and zero points of a chunk's cells, decoded once for all tokens:
// [cells][kRows].
template <class Kind>
struct Factors {
  static constexpr int kFloats = kChunkUnits * Kind::kCells * kRows;
  alignas(64) float scales[kFloats];
  alignas(64) float offsets[Kind::kHasOffset ? kFloats : 1];
  Ints zeros[Kind::kHasZeros ? kChunkUnits * Kind::kCells : 1];

  void decode(const GroupSet& set, int64_t chunk, int units) {
    const typename Kind::Supers supers = Kind::supers(set, chunk);
    for (int cell = 0; cell < units * Kind::kCells; ++cell) {
      const int64_t block = chunk * kChunkUnits * Kind::kCells + cell;
      rows::store(scales + cell * kRows, Kind::scale(set, supers, block));
      if constexpr (Kind::kHasZeros) zeros[cell] = Kind::zeros(set, block);
      if constexpr (Kind::kHasOffset) {
        rows::store(offsets + cell * kRows, Kind::offset(set, supers, block));
      }
    }
  }
};

}  // namespace hotset::HOTSET_ISA
