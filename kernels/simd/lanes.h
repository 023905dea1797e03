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
#pragma once

#if defined(HOTSET_ISA_avx512) || defined(HOTSET_ISA_avx512vnni)
#include "kernels/simd/lanes_avx512.h"
#elif defined(HOTSET_ISA_avx2)
#include "kernels/simd/lanes_avx2.h"
#else
#include "kernels/simd/lanes_portable.h"
#endif

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

}  // namespace hotset::HOTSET_ISA
