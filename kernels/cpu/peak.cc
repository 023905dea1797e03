// Loops that do nothing but the arithmetic of the row dots, from registers and one line of the L1
// cache: what a kernel's multiply-adds a second are compared with (hotset bench --kernels).
#include "kernels/cpu/functions.h"
#include "kernels/simd/rows.h"

namespace hotset::HOTSET_ISA {

namespace {
constexpr int kChains = 10;  // independent sums: more than a multiply-add's latency, few enough to
                             // stay in sixteen registers

}  // namespace

#ifdef HOTSET_ISA_amx
int64_t peak_byte_dot(int64_t rounds, float* sink) {  // in cells of 32
  alignas(64) const int8_t inputs[rows::kTileRows][32] = {};
  const rows::Bytes w[8] = {};
  alignas(64) int32_t sums[rows::kTileRows][rows::kRows];
  rows::shape_tiles(32, {16, 16, 0, 0, 16, 16, 16, 16});
  rows::load_tile<0>(inputs, 32);
  rows::load_tile<2>(w, 64);
  for (int64_t i = 0; i < rounds; ++i) {
    rows::multiply_tiles<4, 0, 2>();
    rows::multiply_tiles<5, 0, 2>();
    rows::multiply_tiles<6, 0, 2>();
    rows::multiply_tiles<7, 0, 2>();
  }
  rows::store_tile<4>(sums[0]);
  rows::release_tiles();
  rows::store(sink, rows::to_floats(rows::load_ints(sums[0])));
  return rounds * 4 * rows::kTileRows * 32 * rows::kRows;
}
#else
int64_t peak_byte_dot(int64_t rounds, float* sink) {
  alignas(64) std::byte weights[512];
  alignas(64) int8_t q[32];
  std::memset(weights, 3, sizeof(weights));
  std::memset(q, 1, sizeof(q));
  rows::Bytes w[8];
  for (int j = 0; j < 8; ++j) w[j] = rows::load_bytes(weights + j * 64, 32);
  rows::Inputs x[8];
  for (int j = 0; j < 8; ++j) x[j] = rows::four_inputs(q + j * 4);
  rows::Ints sum[kChains];
  for (rows::Ints& s : sum) s = rows::zero_ints();
  for (int64_t i = 0; i < rounds; ++i) {
    for (rows::Ints& s : sum) {
      for (rows::Inputs& four : x) four = rows::keep(four);  // or products would be computed once
      rows::Ints products = rows::begin<rows::Range::kU4>(s);
      for (int j = 0; j < 8; j += 2) {
        products = rows::add_products<rows::Range::kU4>(products, w[j], x[j], w[j + 1], x[j + 1]);
      }
      s = rows::finish<rows::Range::kU4>(products, s);
    }
  }
  rows::Floats all = rows::zero();
  for (const rows::Ints& s : sum) all = rows::add(all, rows::to_floats(s));
  rows::store(sink, all);
  return rounds * kChains * 32 * rows::kRows;
}
#endif

int64_t peak_float_fma(int64_t rounds, float* sink) {
  const rows::Floats a = rows::broadcast(0.5f), b = rows::broadcast(1.0f);
  rows::Floats sum[kChains];
  // Different starts: equal chains would be computed once.
  for (int i = 0; i < kChains; ++i) sum[i] = rows::broadcast(static_cast<float>(i));
  for (int64_t i = 0; i < rounds; ++i) {
    for (rows::Floats& s : sum) s = rows::fma(s, a, b);
  }
  rows::Floats all = sum[0];
  for (int i = 1; i < kChains; ++i) all = rows::add(all, sum[i]);
  rows::store(sink, all);
  return rounds * kChains * rows::kRows;
}

}  // namespace hotset::HOTSET_ISA
