// Counts a test program's allocations: include it in one file of the program, since it replaces the
// global operators.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace hotset::test {
inline std::atomic<int64_t> allocations = 0;
}

// Counting replacements of the global operators; malloc itself is not called by the runtime.
// Not inlined: g++ 12 would see malloc meet delete and warn.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++hotset::test::allocations;
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  throw std::bad_alloc();
}
// The nothrow form too: the standard library pairs it with this delete (std::stable_sort's buffer).
[[gnu::noinline]] void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  ++hotset::test::allocations;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
[[gnu::noinline]] void operator delete(void* p) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, const std::nothrow_t&) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept {
  std::free(p);
}
