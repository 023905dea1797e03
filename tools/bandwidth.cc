#include "tools/bandwidth.h"

#include <chrono>
#include <vector>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr int64_t kBytes = 1 << 30;
constexpr int64_t kWords = kBytes / 8;
constexpr int64_t kSliceWords = (4 << 20) / 8;  // small, so that threads end together
constexpr int64_t kLanes = 16;                  // independent sums, so that loads do not wait

uint64_t sum_slice(const uint64_t* words) {
  uint64_t sums[kLanes] = {};
  for (int64_t i = 0; i < kSliceWords; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t all = 0;
  for (const uint64_t sum : sums) all += sum;
  return all;
}

}  // namespace

ReadBandwidth::ReadBandwidth(int threads, Pinning pinning, Pages pages)
    : pool_(threads, pinning), buffer_(kBytes, "measuring bandwidth", pages) {
  uint64_t* const words = buffer_.as<uint64_t>();
  pool_.run(kWords / kSliceWords, [&](int64_t slice, int) {
    for (int64_t i = 0; i < kSliceWords; ++i) words[slice * kSliceWords + i] = 1;
  });
}

double ReadBandwidth::measure_gbps() {
  const uint64_t* const words = buffer_.as<uint64_t>();
  struct alignas(64) Sum {
    uint64_t value = 0;
  };
  std::vector<Sum> sums(static_cast<size_t>(pool_.size()));
  const auto start = std::chrono::steady_clock::now();
  pool_.run(kWords / kSliceWords, [&](int64_t slice, int thread) {
    sums[static_cast<size_t>(thread)].value += sum_slice(words + slice * kSliceWords);
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  uint64_t all = 0;
  for (const Sum& sum : sums) all += sum.value;
  HOTSET_CHECK(all == kWords, "every word was read once");
  return static_cast<double>(kBytes) / seconds.count() / 1e9;
}

}  // namespace hotset
