// Replays a routing trace through a cache that has no bytes: the policies are those of the running
// cache, asked in the same order. An event (a layer of a step) is atomic: its hits are what was
// resident before it, and its own picks are never each other's victims. A miss may be passed by.
//
// A prompt evicts nothing; the policy learns of its last tokens. Only decode is counted.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cache/policy.h"
#include "cache/slot_plan.h"
#include "profiler/routing_trace.h"

namespace hotset {

// Slots for experts of equal size, and the layers whose experts compete for them.
struct ReplayPool {
  std::vector<int32_t> layers;
  int32_t slots = 0;
};
// `slots_per_layer` for each layer: kept for itself, or shared by the layers whose experts are as
// large, as in a running cache.
enum class SlotSplit { kEqual, kShared };
std::vector<ReplayPool> slot_pools(const TraceHeader& header, int32_t slots_per_layer,
                                   SlotSplit split);
// The slots that a running cache has for residents.
std::vector<ReplayPool> slot_pools(const SlotPlan& plan);

struct Replay {
  int64_t events = 0;    // token-layers
  int64_t accesses = 0;  // distinct experts of each event
  int64_t hits = 0, insertions = 0;
  int64_t tokens = 0, miss_bytes = 0;  // miss_bytes: 0 where the trace does not know sizes

  double hit_rate() const { return ratio(hits, accesses); }
  double per_event(int64_t count) const { return ratio(count, events); }
  double gain(double lambda) const {  // J, a token-layer
    return per_event(hits) - lambda * per_event(insertions);
  }

 private:
  static double ratio(int64_t a, int64_t b) {
    return b == 0 ? 0.0 : static_cast<double>(a) / static_cast<double>(b);
  }
};

// One layer of a decode step.
struct EventCounts {
  int32_t layer = 0, rows = 0;
  bool is_new_step = false;
  int64_t accesses = 0, hits = 0, insertions = 0;
};
using OnEvent = std::function<void(const EventCounts&)>;

using MakePolicy = std::function<std::unique_ptr<Policy>(PolicyShape)>;
// `on_event`, if there is one, hears of every decode event in turn.
Replay replay(const RoutingTrace& trace, std::span<const ReplayPool> pools, const MakePolicy& make,
              double lambda, const OnEvent& on_event = nullptr);

// The most hits that any policy could have: after each event keep, of what was resident and what it
// picked, that which is used again soonest (Belady 1966, with bypass). No bound on J for lambda >
// 0. Tokens before `first_token` are replayed but not counted.
Replay replay_belady(const RoutingTrace& trace, std::span<const ReplayPool> pools,
                     int64_t first_token = 0);

// First uses: misses that no cache avoids that starts empty.
int64_t compulsory_misses(const RoutingTrace& trace);

// Uses of each expert, [layers][experts]: the profile of the static policy.
std::vector<float> count_uses(const RoutingTrace& trace);

}  // namespace hotset
