#include "tools/bandwidth.h"

#include <atomic>
#include <chrono>

namespace hotset {
namespace {

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

ReadBandwidth::ReadBandwidth(int threads, Pinning pinning, Pages pages, int64_t bytes)
    : pool_(threads, pinning), buffer_(bytes, "measuring bandwidth", pages) {
  uint64_t* const words = buffer_.as<uint64_t>();
  pool_.run(bytes / 8 / kSliceWords, [&](int64_t slice, int) {
    for (int64_t i = 0; i < kSliceWords; ++i) words[slice * kSliceWords + i] = 1;
  });
}

double ReadBandwidth::measure_gbps() {
  return read_gbps(pool_, {buffer_.data(), static_cast<size_t>(buffer_.bytes())});
}

double read_gbps(ThreadPool& pool, std::span<const std::byte> memory) {
  const auto* const words = reinterpret_cast<const uint64_t*>(memory.data());
  const int64_t slices = std::ssize(memory) / (kSliceWords * 8);
  std::atomic<uint64_t> all = 0;
  const auto start = std::chrono::steady_clock::now();
  pool.run(slices, [&](int64_t slice, int) {
    all.fetch_add(sum_slice(words + slice * kSliceWords), std::memory_order_relaxed);
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(slices * kSliceWords * 8) / seconds.count() / 1e9;
}

}  // namespace hotset
