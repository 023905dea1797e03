// Flags that the card and the host tell each other by, and the card's clock.
#pragma once

#include "kernels/cuda/card.cuh"

#ifdef __CUDACC__
#include <cuda/atomic>
#else
#include <atomic>
#include <chrono>
#endif

namespace hotset::HOTSET_ISA {

#ifdef __CUDACC__
using SystemFlag = ::cuda::atomic_ref<uint32_t, ::cuda::thread_scope_system>;
HOTSET_DEVICE uint32_t load_acquire(uint32_t* flag) {
  return SystemFlag(*flag).load(::cuda::memory_order_acquire);
}
HOTSET_DEVICE void store_release(uint32_t* flag, uint32_t value) {
  SystemFlag(*flag).store(value, ::cuda::memory_order_release);
}
// A flag of the grid, that any of its threads may raise.
HOTSET_DEVICE void raise_flag(uint32_t* flag) {
  ::cuda::atomic_ref<uint32_t, ::cuda::thread_scope_device>(*flag).store(
      1, ::cuda::memory_order_relaxed);
}
HOTSET_DEVICE int64_t card_nanoseconds() {
  int64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}
#else
inline uint32_t load_acquire(uint32_t* flag) {
  return std::atomic_ref(*flag).load(std::memory_order_acquire);
}
inline void store_release(uint32_t* flag, uint32_t value) {
  std::atomic_ref(*flag).store(value, std::memory_order_release);
}
inline void raise_flag(uint32_t* flag) {
  std::atomic_ref(*flag).store(1, std::memory_order_relaxed);
}
inline int64_t card_nanoseconds() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}
#endif

}  // namespace hotset::HOTSET_ISA
