// The executor of the emulated card: that it runs kernels as a card would, and that each mistake a
// kernel can make with barriers, lanes and shared memory ends it with file and line. Proves nothing
// of a card itself.
#define HOTSET_ISA emulated
#define HOTSET_ISA_card 1

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "kernels/cuda/card.cuh"
#include "kernels/cuda/card_sync.cuh"

namespace hotset::emulated {
namespace {

constexpr ThreadOrder kOrders[] = {ThreadOrder::kForward, ThreadOrder::kReverse,
                                   ThreadOrder::kRandom};
const CardStream kNow;

// Runs the kernel once in each order, and five times in random ones.
template <class Run>
void in_all_orders(const Run& run) {
  for (const ThreadOrder order : kOrders) {
    for (uint32_t seed = 1; seed <= (order == ThreadOrder::kRandom ? 5u : 1u); ++seed) {
      const ExecutorScope scope({.order = order, .seed = seed});
      run();
    }
  }
}

HOTSET_KERNEL write_places(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] += static_cast<int>(block * 1000 + thread);
}

TEST(ExecutorTest, EveryThreadOfEveryBlockRunsOnceAndKnowsItsPlace) {
  in_all_orders([] {
    std::vector<int> out(12 * 30);
    launch(write_places, dim3(3, 2, 2), dim3(5, 3, 2), 0, kNow, out.data());
    for (int i = 0; i < 12 * 30; ++i) ASSERT_EQ(out[i], i / 30 * 1000 + i % 30);
  });
}

template <bool kHasBarriers>
HOTSET_KERNEL sum_tree(int* out, const int* in) {
  HOTSET_SHARED(int, part, 256);
  const unsigned t = threadIdx.x;
  part[t] = in[blockIdx.x * 256 + t];
  if (kHasBarriers) __syncthreads();
  for (unsigned width = 128; width > 0; width /= 2) {
    const int other = t < width ? part[t + width] : 0;
    if (t < width) part[t] += other;
    if (kHasBarriers) __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = part[0];
}

std::vector<int> sums(bool has_barriers) {
  std::vector<int> in(3 * 256), out(3);
  std::iota(in.begin(), in.end(), 1);
  launch(has_barriers ? sum_tree<true> : sum_tree<false>, 3, 256, 0, kNow, out.data(), in.data());
  return out;
}

TEST(ExecutorTest, BarriersMakeATreeSumRightInEveryOrder) {
  in_all_orders([] { EXPECT_EQ(sums(true), (std::vector<int>{32896, 98432, 163968})); });
}

#ifndef HOTSET_SANITIZES_thread  // which ends such a program, see below
TEST(ExecutorTest, ABarrierThatIsMissingChangesTheResultOfSomeOrder) {
  std::set<std::vector<int>> results;
  in_all_orders([&] { results.insert(sums(false)); });
  EXPECT_GT(results.size(), 1u);
}
#endif

HOTSET_KERNEL vote(int* out, int yes) {
  const int t = static_cast<int>(threadIdx.x);
  const int both[3] = {__syncthreads_and(t < yes), __syncthreads_or(t < yes),
                       __syncthreads_count(t < yes)};
  for (int i = 0; i < 3; ++i) out[3 * t + i] = both[i];
}

TEST(ExecutorTest, BarriersReducePredicates) {
  in_all_orders([] {
    for (const int yes : {0, 1, 69, 70}) {
      std::vector<int> out(3 * 70);
      launch(vote, 1, 70, 0, kNow, out.data(), yes);
      for (int t = 0; t < 70; ++t) {
        EXPECT_EQ(out[3 * t] != 0, yes == 70);
        EXPECT_EQ(out[3 * t + 1] != 0, yes > 0);
        EXPECT_EQ(out[3 * t + 2], yes);
      }
    }
  });
}

HOTSET_KERNEL shuffles(int64_t* out) {
  const int t = static_cast<int>(threadIdx.x);
  const int64_t v = t + (int64_t{1} << 40);
  int64_t* const mine = out + 8 * t;
  mine[0] = __shfl_sync(0xffffffffu, v, 5);
  mine[1] = __shfl_sync(0xffffffffu, v, t + 1, 8);
  mine[2] = __shfl_up_sync(0xffffffffu, v, 3, 16);
  mine[3] = __shfl_down_sync(0xffffffffu, v, 2, 4);
  mine[4] = __shfl_xor_sync(0xffffffffu, v, 12, 8);  // some of another segment: the own value
  mine[5] = __ballot_sync(0xffffffffu, t % 3 == 0);
  // Half of the warp at a time.
  mine[6] = t % 32 < 16 ? __shfl_xor_sync(0x0000ffffu, v, 1) : __shfl_xor_sync(0xffff0000u, v, 2);
  mine[7] = __all_sync(0xffffffffu, t >= 32) * 2 + __any_sync(0xffffffffu, t == 40);
}

TEST(ExecutorTest, ShufflesReadTheLaneTheyNameWithinTheirWidth) {
  in_all_orders([] {
    std::vector<int64_t> out(8 * 64);
    launch(shuffles, 1, 64, 0, kNow, out.data());
    for (int t = 0; t < 64; ++t) {
      const auto lane = [&](int i) { return t / 32 * 32 + i + (int64_t{1} << 40); };
      const int l = t % 32;
      const int64_t* const mine = &out[8 * t];
      EXPECT_EQ(mine[0], lane(5));
      EXPECT_EQ(mine[1], lane(l / 8 * 8 + (t + 1) % 8));
      EXPECT_EQ(mine[2], lane(l % 16 < 3 ? l : l - 3));
      EXPECT_EQ(mine[3], lane(l % 4 > 1 ? l : l + 2));
      EXPECT_EQ(mine[4], lane((l ^ 12) > l / 8 * 8 + 7 ? l : l ^ 12));
      int64_t ballot = 0;
      for (int i = 0; i < 32; ++i) ballot |= int64_t{(t / 32 * 32 + i) % 3 == 0} << i;
      EXPECT_EQ(mine[5], ballot);
      EXPECT_EQ(mine[6], lane(l < 16 ? l ^ 1 : l ^ 2));
      EXPECT_EQ(mine[7], t < 32 ? 0 : 3);
    }
  });
}

HOTSET_KERNEL read_fresh_memory(float* out) {
  HOTSET_SHARED(float, fixed, 4);
  HOTSET_DYNAMIC_SHARED(float, asked_for);
  out[2 * blockIdx.x] = fixed[3];
  out[2 * blockIdx.x + 1] = asked_for[7];
  fixed[3] = asked_for[7] = 1.0f;
}

TEST(ExecutorTest, SharedMemoryIsNanAtEveryBlocksStart) {
  std::vector<float> out(2 * 3);
  launch(read_fresh_memory, 3, 1, 32, kNow, out.data());
  for (const float v : out) EXPECT_TRUE(std::isnan(v));
}

HOTSET_KERNEL spin(const volatile int* flag, int* polls) {
  while (*flag == 0) {
    ++*polls;
    __nanosleep(32);
  }
}

TEST(ExecutorTest, APollingThreadLetsTheHostDoItsPart) {
  int flag = 0, polls = 0;
  const ExecutorScope scope({.on_poll = [&] { flag = polls == 10; }});
  launch(spin, 1, 1, 0, kNow, &flag, &polls);
  EXPECT_EQ(polls, 10);
}

HOTSET_KERNEL wait_for_another_thread(int* flag) {
  if (threadIdx.x == 0) {
    while (std::atomic_ref(*flag).load() == 0) __nanosleep(32);
  } else {
    __syncwarp(0x6);
    std::atomic_ref(*flag).store(1);
  }
}

TEST(ExecutorTest, APollingThreadLetsItsBlockGoOn) {
  in_all_orders([] {
    int flag = 0;
    launch(wait_for_another_thread, 1, 3, 0, kNow, &flag);
    EXPECT_EQ(flag, 1);
  });
}

TEST(ExecutorTest, EveryThreadOfTheHostHasACardOfItsOwn) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([] { in_all_orders([] { EXPECT_EQ(sums(true)[0], 32896); }); });
  }
  for (std::thread& t : threads) t.join();
}

// The mistakes. Each kernel ends the program, so it runs in a process of its own.
HOTSET_KERNEL return_early() {
  if (threadIdx.x == 7) return;
  __syncthreads();
}
HOTSET_KERNEL barrier_in_a_branch() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
HOTSET_KERNEL barrier_and_vote() {
  threadIdx.x < 32 ? __syncthreads_or(1) : __syncthreads_and(1);
}
HOTSET_KERNEL half_a_warp_shuffles() {
  if (threadIdx.x < 16) __shfl_xor_sync(0xffffffffu, 1, 1);
}
HOTSET_KERNEL half_a_warp_waits_elsewhere() {
  if (threadIdx.x < 16) __shfl_xor_sync(0xffffffffu, 1, 1);
  __syncthreads();
}
HOTSET_KERNEL masks_disagree() {
  __syncwarp(threadIdx.x < 16 ? 0xffffffffu : 0xffff0000u);
  __syncwarp(threadIdx.x < 16 ? 0x0000ffffu : 0xfffffffeu);
}
HOTSET_KERNEL kinds_disagree() {
  if (threadIdx.x % 2 == 0) {
    __shfl_xor_sync(0xffffffffu, 1, 1);
  } else {
    __ballot_sync(0xffffffffu, 1);
  }
}
HOTSET_KERNEL not_in_the_own_mask() {
  __syncwarp(0xfffffffeu);
}
HOTSET_KERNEL lanes_the_block_has_not() {
  __syncwarp(0xffffffffu);
}
HOTSET_KERNEL read_a_lane_outside_the_mask() {
  if (threadIdx.x < 16) __shfl_xor_sync(0x0000ffffu, 1, 16);
}
HOTSET_KERNEL odd_width() {
  __shfl_xor_sync(0xffffffffu, 1, 1, 12);
}

TEST(ExecutorDeathTest, EveryMistakeWithBarriersAndLanesEndsWithFileAndLine) {
  struct Fault {
    void (*kernel)();
    unsigned threads;
    const char* message;
  };
  const Fault faults[] = {
      {return_early, 64, "executor_test.cc:[0-9]+: .*ended .*all threads of the block must reach"},
      {barrier_in_a_branch, 64, "executor_test.cc:[0-9]+: .*different barriers: others at .*cc:"},
      {barrier_and_vote, 64, "executor_test.cc:[0-9]+: .*different barriers"},
      {half_a_warp_shuffles, 32, "executor_test.cc:[0-9]+: .*ended"},
      {half_a_warp_waits_elsewhere, 32,
       "executor_test.cc:[0-9]+: deadlock.*16 threads in __shfl_xor_sync of mask 0xffffffff at "
       ".*16 threads in a barrier|16 threads in a barrier at .*16 threads in __shfl_xor_sync"},
      {masks_disagree, 32, "executor_test.cc:[0-9]+: .*(deadlock|ended)"},
      {kinds_disagree, 32, "executor_test.cc:[0-9]+: .*disagree: .*a vote"},
      {not_in_the_own_mask, 32, "executor_test.cc:[0-9]+: lane 0 is not in its own mask"},
      {lanes_the_block_has_not, 20, "executor_test.cc:[0-9]+: .*lanes that the block does not"},
      {read_a_lane_outside_the_mask, 32, "executor_test.cc:[0-9]+: lane .*leaves out"},
      {odd_width, 32, "executor_test.cc:[0-9]+: width 12 is no power of two"}};
  for (const Fault& fault : faults) {
    EXPECT_DEATH(launch(fault.kernel, 1, fault.threads, 0, kNow), fault.message);
  }
}

TEST(ExecutorDeathTest, SpinningForeverIsFound) {
  const ExecutorScope scope({.polls_max = 1000});
  int flag = 0, polls = 0;
  EXPECT_DEATH(launch(spin, 1, 1, 0, kNow, &flag, &polls), "executor_test.cc:[0-9]+: spin");
}

#ifdef HOTSET_SANITIZES_thread
TEST(ExecutorDeathTest, ThreadSanitizerNamesTheLineThatABarrierIsMissingFrom) {
  const auto run = [](bool has_barriers) {
    sums(has_barriers);
    std::exit(0);  // which becomes 66 where there was a race
  };
  EXPECT_EXIT(run(true), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(run(false), testing::ExitedWithCode(66), "data race.*\n.*\n?.*executor_test.cc");
}

HOTSET_KERNEL tell_that_it_ran(uint32_t* flag, bool atomically) {
  if (atomically) {
    raise_flag(flag);
  } else {
    *flag = 1;
  }
}

TEST(ExecutorDeathTest, ThreadSanitizerSeesRacesBetweenBlocksThatAreLeftUnordered) {
  const auto run = [](bool are_unordered, bool atomically) {
    const ExecutorScope scope({.are_blocks_unordered = are_unordered});
    uint32_t flag = 0;
    launch(tell_that_it_ran, 3, 1, 0, kNow, &flag, atomically);
    std::exit(flag == 1 ? 0 : 1);
  };
  EXPECT_EXIT(run(true, true), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(run(true, false), testing::ExitedWithCode(66),
              "data race.*\n.*\n?.*executor_test.cc");
  EXPECT_EXIT(run(false, false), testing::ExitedWithCode(0), "");
}
#endif

#ifdef HOTSET_SANITIZES_address
HOTSET_KERNEL write_past(int which) {
  HOTSET_SHARED(float, fixed, 4);
  HOTSET_DYNAMIC_SHARED(float, asked_for);
  (which == 0 ? fixed : asked_for)[which == 0 ? 4 : 8] = 1.0f;
}

TEST(ExecutorDeathTest, OnePastASharedArrayIsFound) {
  for (const int which : {0, 1}) {
    EXPECT_DEATH(launch(write_past, 1, 1, 32, kNow, which), "AddressSanitizer");
  }
}
#endif

HOTSET_KERNEL read_four(float* out, const float* in) {
  out[0] = __ldg(reinterpret_cast<const float4*>(in)).x;
}

TEST(ExecutorDeathTest, AWideLoadFromAnOddAddressIsFound) {
  alignas(16) float in[8] = {};
  float out = 0.0f;
  EXPECT_DEATH(launch(read_four, 1, 1, 0, kNow, &out, in + 1), "misaligned address");
}

}  // namespace
}  // namespace hotset::emulated
