// The compute threads: every index once, errors and results reach the caller, waiting is bounded.
#include "kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <stdexcept>
#include <vector>

namespace hotset {
namespace {

TEST(ThreadPoolTest, EveryIndexRunsExactlyOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const int64_t count : {0, 1, 2, 3, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      pool.run(count, [&](int64_t i, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        ++runs[static_cast<size_t>(i)];
      });
      for (const auto& n : runs) ASSERT_EQ(n, 1);
    }
  }
}

// Plain ints: also what ThreadSanitizer looks at.
TEST(ThreadPoolTest, CallerSeesWhatTheBodiesWroteOverManyShortJobs) {
  ThreadPool pool(3, 5);
  std::vector<int> values(64);
  for (int job = 0; job < 5000; ++job) {
    const int64_t count = 1 + job % 64;
    pool.run(count, [&](int64_t i, int) { values[static_cast<size_t>(i)] = job; });
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], job);
  }
}

TEST(ThreadPoolTest, NoTwoBodiesShareAThreadNumberAtOnce) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  pool.run(2000, [&](int64_t, int thread) {
    auto& users = inside[static_cast<size_t>(thread)];
    EXPECT_EQ(users.fetch_add(1), 0);
    users.fetch_sub(1);
  });
}

TEST(ThreadPoolTest, ExceptionIsRethrownAfterAllOthersHaveRunAndThePoolGoesOn) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 50; ++round) {
      std::atomic<int> ran = 0;
      EXPECT_THROW(pool.run(20,
                            [&](int64_t i, int) {
                              ++ran;
                              if (i % 7 == 3) throw std::runtime_error("no");
                            }),
                   std::runtime_error);
      EXPECT_EQ(ran, 20);
      ran = 0;
      pool.run(20, [&](int64_t, int) { ++ran; });
      EXPECT_EQ(ran, 20);
    }
  }
}

TEST(ThreadPoolTest, BodiesKeepSubnormalsWhateverTheCallerHasSetAndTheCallerKeepsItsMode) {
  const unsigned before = __builtin_ia32_stmxcsr();
  const unsigned flush = before | 0x8040;  // FTZ and DAZ
  __builtin_ia32_ldmxcsr(flush);
  {
    ThreadPool pool(3);
    std::atomic<int> wrong = 0;
    pool.run(300, [&](int64_t, int) {
      volatile float tiny = 0x1p-130f;
      const float half = tiny * 0.5f;
      if (__builtin_bit_cast(uint32_t, half) != 0x40000u) ++wrong;  // 2^-131
    });
    EXPECT_EQ(wrong, 0);
  }
  EXPECT_EQ(__builtin_ia32_stmxcsr() & 0x8040u, 0x8040u);
  __builtin_ia32_ldmxcsr(before);
}

double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

TEST(ThreadPoolTest, IdlePoolUsesNoCpu) {
  ThreadPool pool(4);
  pool.run(100, [](int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(cpu_seconds() - before, 0.05);
}

TEST(ThreadPoolTest, CallerParksWhileItWaitsForALongBody) {
  ThreadPool pool(2);
  const double before = cpu_seconds();
  pool.run(2, [](int64_t i, int) {
    std::this_thread::sleep_for(std::chrono::milliseconds(i == 0 ? 1 : 300));
  });
  EXPECT_LT(cpu_seconds() - before, 0.1);
}

}  // namespace
}  // namespace hotset
