// What kernels are written with, under both compilers. nvcc: CUDA C++. As C++ over the executor:
// the same names, which lead there. A kernel is in namespace hotset::HOTSET_ISA, which is `cuda` or
// `emulated`; names of CUDA's own namespace are therefore written ::cuda::name.
//
//   HOTSET_DEVICE          a function of the card, always inlined
//   HOTSET_KERNEL          the return type of a kernel
//   HOTSET_SHARED(type, name, count)         a static shared array
//   HOTSET_DYNAMIC_SHARED(type, name)        the launch's shared memory
//   load_wide<T>(address)  what lies there as one read of T, for which it must be aligned
//   launch(kernel, grid, block, shared_bytes, stream, arguments...)
//
// Arithmetic is written with __fmul_rn and its like, which no compiler contracts. Beside the
// language, kernels use of CUDA what is listed at the end of this file, and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/card_stream.h"
#include "kernels/simd/device_function.h"

namespace hotset::HOTSET_ISA {

// CardSlotCheck costs two words a thread and slot: a card that is to be quick has no code for it.
#if defined(__CUDACC__) && defined(NDEBUG)
inline constexpr bool kChecksSlots = false;
#else
inline constexpr bool kChecksSlots = true;
#endif

}  // namespace hotset::HOTSET_ISA

#ifdef __CUDACC__

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/cuda_check.h"

#define HOTSET_KERNEL __global__ void
#define HOTSET_SHARED(type, name, count) __shared__ type name[count]
#define HOTSET_DYNAMIC_SHARED(type, name)                       \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  type* const name = reinterpret_cast<type*>(name##_bytes)

namespace hotset::HOTSET_ISA {

template <class T>
HOTSET_DEVICE T load_wide(const void* at) {
  return *static_cast<const T*>(at);
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            CardStream stream, Arguments... arguments) {
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream.handle)>>>(
      static_cast<Parameters>(arguments)...);
  HOTSET_CUDA_CHECK(cudaGetLastError());
}

}  // namespace hotset::HOTSET_ISA

#else

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cuda/executor.h"

#define HOTSET_KERNEL inline void
#define HOTSET_SHARED(type, name, count) \
  static const char name##_key = 0;      \
  type* const name =                     \
      static_cast<type*>(::hotset::emulated::static_shared(&name##_key, sizeof(type) * (count)))
#define HOTSET_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::hotset::emulated::dynamic_shared())
#define __launch_bounds__(...)
#define threadIdx (::hotset::emulated::place.thread)
#define blockIdx (::hotset::emulated::place.block)
#define blockDim (::hotset::emulated::place.block_size)
#define gridDim (::hotset::emulated::place.grid_size)

namespace hotset::HOTSET_ISA {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            CardStream stream, Arguments... arguments) {
  enqueue(stream, [=] {
    auto body = [&] { kernel(static_cast<Parameters>(arguments)...); };
    run_grid(
        {grid, block, shared_bytes}, [](void* b) { (*static_cast<decltype(body)*>(b))(); }, &body);
  });
}

struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// Where a call stands in the source.
#define HOTSET_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(HOTSET_SITE) {
  block_barrier(Reduction::kNone, false, {file, line});
}
inline int __syncthreads_and(int predicate, HOTSET_SITE) {
  return block_barrier(Reduction::kAnd, predicate != 0, {file, line});
}
inline int __syncthreads_or(int predicate, HOTSET_SITE) {
  return block_barrier(Reduction::kOr, predicate != 0, {file, line});
}
inline int __syncthreads_count(int predicate, HOTSET_SITE) {
  return block_barrier(Reduction::kCount, predicate != 0, {file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffu, HOTSET_SITE) {
  warp_collective(Collective::kSync, mask, 0, 0, 32, {file, line});
}

template <class T>
T shuffle(Collective kind, unsigned mask, T value, int operand, int width, Site site) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_collective(kind, mask, bits, operand, width, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, HOTSET_SITE) {
  return shuffle(Collective::kShuffle, mask, value, lane, width, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, HOTSET_SITE) {
  return shuffle(Collective::kShuffleUp, mask, value, static_cast<int>(by), width, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, HOTSET_SITE) {
  return shuffle(Collective::kShuffleDown, mask, value, static_cast<int>(by), width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, HOTSET_SITE) {
  return shuffle(Collective::kShuffleXor, mask, value, lanes, width, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, HOTSET_SITE) {
  return static_cast<unsigned>(
      warp_collective(Collective::kBallot, mask, predicate != 0, 0, 32, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, HOTSET_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, HOTSET_SITE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}
inline void __nanosleep(unsigned /*ns*/, HOTSET_SITE) {
  sleep_on_card({file, line});
}
#undef HOTSET_SITE

template <class T>
T load_wide(const void* at) {
  HOTSET_CHECK(reinterpret_cast<uintptr_t>(at) % alignof(T) == 0, "a misaligned address");
  return *static_cast<const T*>(at);
}
template <class T>
T __ldg(const T* at) {
  return load_wide<T>(at);
}

inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fsqrt_rn(float a) {
  return std::sqrt(a);
}
inline float __fmaf_rn(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
inline float __int2float_rn(int a) {
  return static_cast<float>(a);
}
inline float __uint2float_rn(unsigned a) {
  return static_cast<float>(a);
}
inline float __uint_as_float(unsigned a) {
  return std::bit_cast<float>(a);
}
inline unsigned __float_as_uint(float a) {
  return std::bit_cast<unsigned>(a);
}
inline float __int_as_float(int a) {
  return std::bit_cast<float>(a);
}
inline int __float_as_int(float a) {
  return std::bit_cast<int>(a);
}
// The sum of the products of four signed bytes, and c.
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) {
    c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  }
  return c;
}
// Byte i of the result is byte (s >> 4 * i & 7) of b:a.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  const uint64_t both = uint64_t{b} << 32 | a;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<unsigned>(both >> 8 * (s >> 4 * i & 7) & 0xff) << 8 * i;
  }
  return out;
}

}  // namespace hotset::HOTSET_ISA

#endif
