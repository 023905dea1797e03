// Nothing allocates on the token path (docs/architecture.md, State): counts this program's
// allocations while tokens are decoded.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/support/engine.h"

namespace {
std::atomic<int64_t> allocations = 0;
}

// Counting replacements of the global operators; malloc itself is not called by the runtime.
// Not inlined: g++ 12 would see malloc meet delete and warn.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  throw std::bad_alloc();
}
// The nothrow form too: the standard library pairs it with this delete (std::stable_sort's buffer).
[[gnu::noinline]] void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
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

namespace hotset::test {
namespace {

void expect_no_allocation_while_decoding(const std::string& model, int64_t budget) {
  EngineOptions options;
  options.threads = 2;
  options.context = 512;
  options.expert_bytes = budget;
  const auto engine = open_engine(data_path(model), options);
  Session session = engine->open_session();
  // Past the first KV block.
  const std::vector<int32_t> prompt(230, 5);
  feed(*engine, session, prompt);
  feed(*engine, session, {{7}});
  const int64_t before = allocations;
  for (int32_t i = 0; i < 64; ++i) feed(*engine, session, {{i % 300}});
  EXPECT_EQ(allocations - before, 0);
}

TEST(AllocationTest, DecodingAllocatesNothingWhereTheModelIsResident) {
  expect_no_allocation_while_decoding("demo/hotset-demo-q4_0.gguf", INT64_MAX);
  expect_no_allocation_while_decoding("models/qwen3_moe", INT64_MAX);
}

TEST(AllocationTest, DecodingAllocatesNothingWhereExpertsAreLoadedAsNeeded) {
  expect_no_allocation_while_decoding("demo/hotset-demo-q4_0.gguf", 2 << 20);
}

}  // namespace
}  // namespace hotset::test
