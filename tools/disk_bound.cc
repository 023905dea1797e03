#include "tools/disk_bound.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <thread>

#include "profiler/simulator.h"
#include "tools/size.h"

namespace hotset {

namespace {
constexpr int64_t kReads = 512;  // of a measurement: a gigabyte of large experts
}

DiskBandwidth::DiskBandwidth(const File& file, int threads, int64_t expert_bytes)
    : file_(file, FileReads::kDirect),
      threads_(threads),
      expert_bytes_(std::min(expert_bytes, static_cast<int64_t>(file.size()))),
      stride_(landing_bytes_of(expert_bytes_)),
      landings_(stride_ * threads, "measuring the disk") {}

double DiskBandwidth::measure_gbps() {
  const uint64_t places = file_.file().size() - static_cast<uint64_t>(expert_bytes_) + 1;
  std::vector<int64_t> offsets(kReads);
  for (int64_t& offset : offsets) {
    seed_ = seed_ * 6364136223846793005 + 1442695040888963407;  // Knuth's MMIX generator
    offset = static_cast<int64_t>((seed_ >> 16) % places);
  }
  std::atomic<size_t> next = 0;
  std::vector<std::exception_ptr> errors(static_cast<size_t>(threads_));
  const auto start = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < threads_; ++t) {
      threads.emplace_back([&, t] {
        try {
          for (size_t i; (i = next++) < offsets.size();) {
            file_.read(offsets[i], expert_bytes_, landings_.data() + t * stride_);
          }
        } catch (...) {
          errors[static_cast<size_t>(t)] = std::current_exception();
        }
      });
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return static_cast<double>(kReads * expert_bytes_) / seconds.count() / 1e9;
}

double DiskBound::unguessed_tps(const DiskDecode& decode) const {
  const double hides = layer_share / resident_tps;
  double waits = 0;
  for (const int64_t bytes : decode.layer_bytes) {
    waits += std::max(0.0, static_cast<double>(bytes) / 1e9 / decode.disk_gbps - hides);
  }
  const auto tokens = static_cast<double>(decode.layer_bytes.size()) / static_cast<double>(layers);
  return 1.0 / (1.0 / resident_tps + waits / tokens);
}

double DiskBound::reached() const {
  return median([&](const DiskDecode& d) { return d.tps / std::min(d.disk_tps(), resident_tps); });
}

nlohmann::ordered_json DiskBound::json() const {
  return {
      {"read_gbps", median([](const DiskDecode& d) { return d.disk_gbps; })},
      {"miss_bytes_per_token", median([](const DiskDecode& d) { return d.miss_bytes_per_token; })},
      {"belady_bytes_per_token", belady_bytes_per_token},
      {"disk_tps", median([](const DiskDecode& d) { return d.disk_tps(); })},
      {"resident_tps", resident_tps},
      {"unguessed_tps", median([&](const DiskDecode& d) { return unguessed_tps(d); })},
      {"waited_ms_per_token", median([](const DiskDecode& d) { return d.waited_ms_per_token; })},
      {"reached", reached()}};
}

std::string DiskBound::text() const {
  const double gbps = median([](const DiskDecode& d) { return d.disk_gbps; });
  std::string belady;
  if (belady_bytes_per_token > 0) {
    belady = fmt::format(" (Belady's choice in the long run: {}, {:.2f})",
                         human_bytes(static_cast<int64_t>(belady_bytes_per_token)),
                         1e9 * gbps / belady_bytes_per_token);
  }
  return fmt::format(
      "disk gives {:.2f} GB/s, a token misses {}: at most {:.2f} tokens/s{}; with every pick "
      "resident {:.2f}; decode reaches {:.0f} % of the lesser, and waits {:.1f} ms a token; "
      "without "
      "guesses, where a layer's reads begin at its router, {:.2f} tokens/s would be the most",
      gbps,
      human_bytes(
          static_cast<int64_t>(median([](const DiskDecode& d) { return d.miss_bytes_per_token; }))),
      median([](const DiskDecode& d) { return d.disk_tps(); }), belady, resident_tps,
      100 * reached(), median([](const DiskDecode& d) { return d.waited_ms_per_token; }),
      median([&](const DiskDecode& d) { return unguessed_tps(d); }));
}

double belady_bytes_per_token(const RoutingPlayer& player, const SlotPlan& plan) {
  RoutingTrace trace = player.trace();
  for (const SlotPlan::Class& c : plan.classes) {
    for (const int32_t layer : c.layers) trace.header.expert_bytes[layer] = c.slot_bytes;
  }
  const Replay belady = replay_belady(trace, slot_pools(plan), player.tokens() / 2);
  return belady.tokens == 0
             ? 0.0
             : static_cast<double>(belady.miss_bytes) / static_cast<double>(belady.tokens);
}

}  // namespace hotset
