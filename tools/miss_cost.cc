#include "tools/miss_cost.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <vector>

#include "runtime/model/expert_sidecar_source.h"
#include "tools/interrupt.h"
#include "tools/sidecars.h"

namespace hotset {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

}  // namespace

MissCost measure_miss(const ModelDescription& description, const EngineOptions& options) {
  constexpr int kEventsMost = 400;
  constexpr double kMsMost = 2000;
  const auto top_k = static_cast<int32_t>(description.config.num_experts_per_tok);
  ThreadPool pool(options.threads, options.pinning);
  std::unique_ptr<Sidecar> sidecar =
      std::move(find_sidecar(description, sidecar_places(description)).found);
  ExpertFileSource file(description, 0, options.io_threads, options.reads);
  std::unique_ptr<ExpertSidecarSource> packed;
  if (sidecar) packed = std::make_unique<ExpertSidecarSource>(*sidecar, file, options.reads);
  ExpertSource& source = packed ? static_cast<ExpertSource&>(*packed) : file;
  // With as few slots as there can be; those that are hit cost next to nothing and are not counted.
  ExpertCache cache(
      source, plan_slots(source, 0, top_k), pool,
      [](PolicyShape shape) { return make_policy({PolicyKind::kLru}, std::move(shape)); },
      {.floor = top_k, .reading_threads = options.io_threads, .reads = std::max(top_k, 16)});

  std::mt19937_64 random(1);
  std::vector<int32_t> experts(source.experts_per_layer());
  for (size_t i = 0; i < experts.size(); ++i) experts[i] = static_cast<int32_t>(i);
  std::vector<Pick> picks(std::max(top_k / 2, 1));
  std::vector<double> costs;
  int64_t missed = 0;
  const Clock::time_point start = Clock::now();
  for (int event = 0; event < kEventsMost && ms_since(start) < kMsMost; ++event) {
    throw_if_interrupted();
    const auto layer = static_cast<int32_t>(random() % source.layer_count());
    for (size_t i = 0; i < picks.size(); ++i) {  // the first so many of a shuffle
      std::swap(experts[i], experts[i + random() % (experts.size() - i)]);
      picks[i] = {experts[i], static_cast<int32_t>(i)};
    }
    const int64_t before = cache.stats().misses;
    const Clock::time_point begin = Clock::now();
    cache.begin(layer, picks, event);
    while (!cache.next_wave(top_k).empty()) continue;
    cache.end();
    const int64_t misses = cache.stats().misses - before;
    if (misses > 0) costs.push_back(ms_since(begin) / static_cast<double>(misses));
    missed += misses;
  }
  if (costs.empty()) return {};
  // The median: a machine that does something else now and then is not slower for it.
  std::nth_element(costs.begin(), costs.begin() + std::ssize(costs) / 2, costs.end());
  return {costs[costs.size() / 2], missed};
}

}  // namespace hotset
