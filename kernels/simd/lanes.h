// The float half of the vector vocabulary: sixteen float32 lanes, the same operations on every
// instruction set, so that a kernel is written once and gives the same bits everywhere
// (docs/numerics.md: reductions in 16 lanes i % 16, one fixed fold).
//
//   F            sixteen floats                    set(x), zero()
//   load/store(p), load_partial/store_partial(p, n): n < 16 lanes, the others read as 0
//   add sub mul div max min, fma(a, b, c) = a * b + c rounded once
//   fold(a)      ((l0+l8)+(l4+l12)) + ... : halves added three more times; fold_max likewise
//   fold_all<n>(a, out)               n folds
//   keep(a)                           a, held in a register: compilers like to load an operand
//                                     again for each use, where loads are what a loop waits for
//   kRegisters                        values of F that fit the registers
//   load_half(p) / store_half(p, a)   sixteen f16; power_of_two(t): see exp in float_math.h
//
// On a card a lane is a thread: F is one float, and there is only the arithmetic.
#pragma once

#if defined(HOTSET_ISA_card)
#include "kernels/cuda/lane.cuh"
#elif defined(HOTSET_ISA_avx512) || defined(HOTSET_ISA_avx512vnni) || defined(HOTSET_ISA_amx)
#include "kernels/simd/lanes_avx512.h"
#elif defined(HOTSET_ISA_avx2)
#include "kernels/simd/lanes_avx2.h"
#else
#include "kernels/simd/lanes_portable.h"
#endif

#if !defined(HOTSET_ISA_card)
namespace hotset::HOTSET_ISA {

// Asks for a line to be brought into the L2 cache.
inline void prefetch(const void* at) {
  __builtin_prefetch(at, 0, 2);
}

template <int kCount>
inline void fold_all(const F* a, float* out) {
  int i = 0;
  for (; i + kFolds <= kCount; i += kFolds) fold_some(a + i, out + i);
  for (; i < kCount; ++i) out[i] = fold(a[i]);
}

// Calls body(i, n) for i = 0, 16, ...: n is 16, or what is left at the end.
template <class Body>
inline void for_lanes(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) body(i, int64_t{16});
  if (i < count) body(i, count - i);
}
inline F load_some(const float* p, int64_t n) {
  return n == 16 ? load(p) : load_partial(p, n);
}
inline void store_some(float* p, F a, int64_t n) {
  if (n == 16) {
    store(p, a);
  } else {
    store_partial(p, a, n);
  }
}

}  // namespace hotset::HOTSET_ISA
#endif
