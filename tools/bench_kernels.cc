// Method. A kernel's result is compared with the double-precision reference; then it runs on all
// threads, -r times for at least 20 ms; the median counts. Its yardstick (the memory's read
// bandwidth, or a register-only loop of the same instruction) is measured before each repetition,
// on the same threads, because neighbours on a shared machine change both within seconds.
#include "tools/bench_kernels.h"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "tools/bandwidth.h"
#include "tools/interrupt.h"
#include "tools/kernel_cases.h"
#include "tools/samples.h"

namespace hotset {
namespace {

constexpr double kErrorMost = 1e-5;
constexpr double kLeastSeconds = 0.02;

// Work a second of `work` (which says how much it did), repeated for at least kLeastSeconds.
template <class Work>
double rate(const Work& work) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double done = 0;
  std::chrono::duration<double> seconds{};
  do {
    done += work();
    seconds = Clock::now() - start;
  } while (seconds.count() < kLeastSeconds);
  return done / seconds.count() / 1e9;
}

class KernelBench {
 public:
  KernelBench(const KernelTable& kernels, int threads) : kernels_(kernels), pool_(threads) {}

  double peak(const KernelCase& c) {
    switch (c.bound) {
      case Bound::kMemory:
        return read_gbps(pool_, c.streamed);
      case Bound::kByteDots:
        return arithmetic_peak(kernels_.peak_byte_dot);
      case Bound::kFloatFma:
        return arithmetic_peak(kernels_.peak_float_fma);
      case Bound::kCache:
        break;
    }
    return 0;
  }
  double run(const KernelCase& c) {
    return rate([&] {
      c.run(pool_);
      return c.work;
    });
  }

 private:
  double arithmetic_peak(int64_t (*loop)(int64_t, float*)) {
    constexpr int64_t kRounds = 20000;
    return rate([&] {
      std::atomic<int64_t> macs = 0;
      pool_.run(pool_.size(), [&](int64_t, int) {
        float sink[16];
        macs += loop(kRounds, sink);
      });
      return static_cast<double>(macs.load());
    });
  }

  const KernelTable& kernels_;
  ThreadPool pool_;
};

const char* unit(Bound bound) {
  return bound == Bound::kMemory || bound == Bound::kCache ? "GB/s" : "GMAC/s";
}

void print_row(const nlohmann::ordered_json& row) {
  const double rate = row["rate"], peak = row["peak"];
  const std::string share =
      peak > 0 ? fmt::format("{:.0f} % of {:.0f}", 100 * rate / peak, peak) : "";
  fmt::print("{:<42}{:<8}{:>9.1f} {:<7}{:>16}  {:.0e}\n", row["kernel"].get<std::string>(),
             row["type"].get<std::string>(), rate, row["unit"].get<std::string>(), share,
             row["error"].get<double>());
}

}  // namespace

void bench_kernels(const KernelTable& kernels, const std::string& only, int threads,
                   int64_t repetitions, bool json) {
  KernelBench bench(kernels, threads);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  if (!json) {
    fmt::print("{} threads, {}\n{:<42}{:<8}{:>9} {:<7}{:>16}  {}\n", threads, kernels.name,
               "kernel", "type", "rate", "", "of the peak", "error");
  }
  for (const NamedCase& named : kernel_cases(kernels)) {
    if ((named.kernel + " " + named.type).find(only) == std::string::npos) continue;
    throw_if_interrupted();
    const KernelCase c = named.make();
    const double error = c.error();
    if (!(error <= kErrorMost)) {
      throw Error(fmt::format(
          "{} kernels, {} ({}): the error is {:.1e}, expected at most {:.0e}: a fault of "
          "this program or of the processor",
          kernels.name, named.kernel, named.type, error, kErrorMost));
    }
    Samples rates, peaks;
    for (int64_t i = 0; i < repetitions; ++i) {
      peaks.values.push_back(bench.peak(c));
      rates.values.push_back(bench.run(c));
    }
    rows.push_back({{"kernel", named.kernel},
                    {"type", named.type},
                    {"rate", rates.at(.5)},
                    {"unit", unit(c.bound)},
                    {"peak", peaks.at(.5)},
                    {"error", error}});
    if (!json) print_row(rows.back());
    std::fflush(stdout);
  }
  if (json) {
    const nlohmann::ordered_json out = {
        {"isa", kernels.name}, {"threads", threads}, {"kernels", rows}};
    fmt::print("{}\n", out.dump());
  }
}

}  // namespace hotset
