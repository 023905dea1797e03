// Loops that do nothing but the arithmetic of the row dots, from registers and one line of the L1
// cache: what a kernel's multiply-adds a second are compared with (hotset bench --kernels).
#include "kernels/cpu/functions.h"
#include "kernels/simd/rows.h"

namespace hotset::HOTSET_ISA {

namespace {
constexpr int kChains = 8;  // independent sums: more than the latency of a multiply-add
}

int64_t peak_byte_dot(int64_t rounds, float* sink) {
  alignas(64) std::byte weights[512];
  alignas(64) int8_t q[64];
  std::memset(weights, 3, sizeof(weights));
  std::memset(q, 1, sizeof(q));
  rows::Bytes w[8];
  for (int j = 0; j < 8; ++j) w[j] = rows::load_bytes(weights + j * 64, 32);
  rows::Ints sum[kChains];
  for (rows::Ints& s : sum) s = rows::zero_ints();
  for (int64_t i = 0; i < rounds; ++i) {
    for (rows::Ints& s : sum) s = rows::dot<rows::Range::kU4, 0, 8>(w, q, s);
  }
  for (rows::Ints& s : sum) rows::store(sink, rows::to_floats(s));
  return rounds * kChains * 32 * rows::kRows;
}

int64_t peak_float_fma(int64_t rounds, float* sink) {
  const rows::Floats a = rows::broadcast(0.5f), b = rows::broadcast(1.0f);
  rows::Floats sum[2 * kChains];
  for (rows::Floats& s : sum) s = rows::zero();
  for (int64_t i = 0; i < rounds; ++i) {
    for (rows::Floats& s : sum) s = rows::fma(s, a, b);
  }
  for (rows::Floats& s : sum) rows::store(sink, s);
  return rounds * 2 * kChains * rows::kRows;
}

}  // namespace hotset::HOTSET_ISA
