// The matrix unit of AMX: a cell of up to 16 tokens' inputs times a cell of 16 rows' weights, both
// signed, at once. See rows.h; included only by rows_avx512.h.
//
// A tile register has up to 16 rows of 64 bytes. Inputs: a row a token. Weights: a row for each
// four inputs, which is a vector as unpacked. Sums: a row of 16 int32 a token. Written as assembly,
// since g++ 12 does not know what its intrinsics read and write in memory, and drops stores.
#pragma once

namespace hotset::HOTSET_ISA::rows {

// Fewer tokens are done as soon by vectors; longer rows have no room when unpacked.
inline constexpr int kTokensLeast = 4;
inline constexpr int64_t kUnitsMost = 512;
// One token streams the weights, and what follows that stream on processors with AMX is their own
// prefetching, which hints lead best a little less than a page ahead, along the codes alone and
// from few places in the code (row_units.h). Several tokens are better off with hints for all that
// comes: 17 GB/s of Q4_0 with ten, 11 with none.
inline constexpr bool kTokenLeadsCodes = true;
inline constexpr int kTileRows = 16;

inline constexpr int kSignedBias = 0;
inline Bytes prepare_signed(Bytes v) {
  return v;
}
inline Bytes minus_bias(Bytes v, int8_t bias) {
  return _mm512_sub_epi8(v, _mm512_set1_epi8(bias));
}
inline constexpr int kWideBias = 0;
inline void wide_weights(Bytes high, Bytes low, Bytes* w) {
  w[0] = high;
  w[1] = low;
}
inline Ints load_ints(const int32_t* p) {
  return _mm512_loadu_si512(p);
}
inline Ints add_ints(Ints a, Ints b) {
  return _mm512_add_epi32(a, b);
}
inline Ints join_wide(Ints high, Ints low) {
  return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
}

// Tiles 0 and 1 hold inputs of cells of `inputs`, 2 and 3 weights, 4 to 7 sums, of as many tokens
// as `tokens` says of each tile.
inline void shape_tiles(int inputs, const uint8_t (&tokens)[8]) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {0, 0, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {};
  } shape;
  shape.row_bytes[0] = shape.row_bytes[1] = static_cast<uint16_t>(inputs);
  std::memcpy(shape.rows, tokens, sizeof(tokens));
  shape.rows[2] = shape.rows[3] = static_cast<uint8_t>(inputs / 4);
  __asm__ volatile("ldtilecfg %0" : : "m"(shape));
}
inline void release_tiles() {
  __asm__ volatile("tilerelease");
}
// Rows that are `stride` bytes apart.
template <int kTile>
inline void load_tile(const void* from, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                   :
                   : "r"(from), "r"(stride), "i"(kTile)
                   : "memory");
}
template <int kTile>
inline void store_tile(int32_t* to) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                   :
                   : "r"(to), "r"(int64_t{64}), "i"(kTile)
                   : "memory");
}
template <int kTile>
inline void clear_tile() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// kSums += products of kInputs and kWeights.
template <int kSums, int kInputs, int kWeights, bool kIsSigned = true>
inline void multiply_tiles() {
  if constexpr (kIsSigned) {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0"
                     :
                     : "i"(kSums), "i"(kInputs), "i"(kWeights));
  } else {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0"
                     :
                     : "i"(kSums), "i"(kInputs), "i"(kWeights));
  }
}

}  // namespace hotset::HOTSET_ISA::rows
