// The compute threads: every index once, errors and results reach the caller, waiting is bounded.
#include "kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
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
  ThreadPool pool(3, Pinning::kNone, 5);
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

cpu_set_t own_affinity() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  EXPECT_EQ(sched_getaffinity(0, sizeof cpus, &cpus), 0);
  return cpus;
}

// One thread more than there are cores: the last one begins again at the first core.
TEST(ThreadPoolTest, PinnedThreadsKeepToOneCoreEachAndTheCallerIsFreeAgainAfterwards) {
  const cpu_set_t before = own_affinity();
  const std::vector<cpu_set_t>& cores = physical_cores();
  const int threads = static_cast<int>(cores.size()) + 1;
  {
    ThreadPool pool(threads, Pinning::kCores);
    std::atomic<int> arrived = 0;
    pool.run(threads, [&](int64_t, int thread) {
      const cpu_set_t own = own_affinity();
      EXPECT_TRUE(CPU_EQUAL(&own, &cores[static_cast<size_t>(thread) % cores.size()])) << thread;
      for (++arrived; arrived < threads;) std::this_thread::yield();  // so that each has an index
    });
  }
  const cpu_set_t after = own_affinity();
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
}

TEST(ThreadPoolTest, APinnedCallerDoesNotNarrowTheCoresOfTheNextPool) {
  const ThreadPool pinned(1, Pinning::kCores);
  ThreadPool next(2, Pinning::kCores);
  std::atomic<int> arrived = 0;
  next.run(2, [&](int64_t, int thread) {
    const cpu_set_t own = own_affinity();
    const auto core = static_cast<size_t>(thread) % physical_cores().size();
    EXPECT_TRUE(CPU_EQUAL(&own, &physical_cores()[core])) << thread;
    for (++arrived; arrived < 2;) std::this_thread::yield();
  });
}

using Clock = std::chrono::steady_clock;

// The least microseconds that pool.run(count, body) takes, each time after a pause.
template <class Body>
double least_us(ThreadPool& pool, int64_t count, std::chrono::microseconds pause, Body body) {
  double least = 1e9;
  for (int job = 0; job < 300; ++job) {
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
    const auto start = Clock::now();
    pool.run(count, body);
    least =
        std::min(least, std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  return least;
}

// Prints what docs/performance.md says of barriers. The bound is far from what any machine needs:
// it tells a barrier from a time slice.
TEST(ThreadPoolTest, AJobThatAllThreadsTakePartInCostsFarLessThanATimeSlice) {
  ThreadPool pool(2);
  const auto nothing = [](int64_t, int) {};
  std::atomic<int> arrived = 0;
  const auto meet = [&](int64_t, int) {
    for (const int all = arrived++ / 2 * 2 + 2; arrived < all;) __builtin_ia32_pause();
  };
  const double alone = least_us(pool, 1, {}, nothing);
  const double spinning = least_us(pool, 2, {}, meet);
  const double parked = least_us(pool, 2, std::chrono::microseconds(500), meet);
  std::printf("one task %.2f us; both threads %.2f us, %.2f us if one was parked\n", alone,
              spinning, parked);
  EXPECT_LT(std::min(spinning, parked), 3000);
}

}  // namespace
}  // namespace hotset
