#include "profiler/simulator.h"

#include <algorithm>
#include <limits>
#include <map>
#include <queue>
#include <utility>

#include "kernels/check.h"

namespace hotset {
namespace {

// Walks through a trace event by event: the distinct picks of each, and the time in tokens.
class Walk {
 public:
  explicit Walk(const RoutingTrace& trace)
      : trace_(trace), seen_(static_cast<size_t>(trace.header.layers) * trace.header.experts) {
    picks_.reserve(trace.header.experts);
  }

  bool next() {
    if (next_ == trace_.events.size()) return false;
    const RoutingTrace::Event& event = trace_.events[next_];
    if (next_ == 0 || event.step != trace_.events[next_ - 1].step) {
      now_ += rows_;
      rows_ = event.rows;
      is_new_token_ = true;
    } else {
      is_new_token_ = false;
    }
    ++next_;
    picks_.clear();
    if (event.phase == TracePhase::kPrompt) return true;
    for (int32_t r = 0; r < event.rows; ++r) {
      const std::span<const uint16_t> row = trace_.row(event, r);
      for (int32_t rank = 0; rank < std::ssize(row); ++rank) add(event.layer, row[rank], rank);
    }
    return true;
  }

  const RoutingTrace::Event& event() const { return trace_.events[next_ - 1]; }
  bool is_prompt() const { return event().phase == TracePhase::kPrompt; }
  std::span<const Pick> picks() const { return picks_; }  // none of a prompt
  bool is_picked(ExpertId id) const { return seen_[index(id)] == next_; }
  int64_t now() const { return now_; }
  bool is_new_token() const { return is_new_token_; }
  size_t index(ExpertId id) const {
    return static_cast<size_t>(id.layer) * trace_.header.experts + id.expert;
  }

 private:
  void add(int32_t layer, int32_t expert, int32_t rank) {
    size_t& seen = seen_[index({layer, expert})];
    if (seen != next_) {
      seen = next_;
      picks_.push_back({expert, rank});
      return;
    }
    const auto same =
        std::find_if(picks_.begin(), picks_.end(), [&](Pick p) { return p.expert == expert; });
    same->rank = std::min(same->rank, rank);
  }

  const RoutingTrace& trace_;
  size_t next_ = 0;
  int64_t now_ = 0;
  int32_t rows_ = 0;
  bool is_new_token_ = false;
  std::vector<Pick> picks_;
  std::vector<size_t> seen_;  // [layers][experts]: the number of the last event that picked it
};

void count(Replay& out, const Walk& walk, const TraceHeader& header, int64_t hits) {
  const auto picks = std::ssize(walk.picks());
  ++out.events;
  if (walk.is_new_token()) out.tokens += walk.event().rows;
  out.accesses += picks;
  out.hits += hits;
  out.miss_bytes += (picks - hits) * header.expert_bytes[walk.event().layer];
}

// Which pool each layer's experts are in.
std::vector<int32_t> pool_of_layer(const TraceHeader& header, std::span<const ReplayPool> pools) {
  std::vector<int32_t> of(header.layers, -1);
  for (size_t p = 0; p < pools.size(); ++p) {
    for (const int32_t layer : pools[p].layers) of[layer] = static_cast<int32_t>(p);
  }
  return of;
}

class PolicyReplay {
 public:
  PolicyReplay(const RoutingTrace& trace, std::span<const ReplayPool> pools, const MakePolicy& make)
      : trace_(trace),
        walk_(trace),
        pool_of_(pool_of_layer(trace.header, pools)),
        resident_(static_cast<size_t>(trace.header.layers) * trace.header.experts),
        residents_of_(trace.header.layers),
        prompt_row_(trace.header.top_k) {
    const TraceHeader& h = trace.header;
    for (const ReplayPool& pool : pools) {
      const auto layers = static_cast<int32_t>(pool.layers.size());
      pools_.push_back({make({h.layers, h.experts, h.top_k, pool.layers}), pool.slots,
                        layers > 1 ? std::min(h.top_k, pool.slots / layers) : 0});
    }
  }

  Replay run(double lambda, const OnEvent& on_event) {
    Replay out;
    bool is_first = true;
    while (walk_.next()) {
      Pool& pool = pools_[pool_of_[walk_.event().layer]];
      if (walk_.is_prompt()) {
        learn_prompt(pool);
        continue;
      }
      const Replay before = out;
      event(pool, out, lambda);
      if (!on_event) continue;
      const bool is_new_step = walk_.is_new_token() || is_first;
      is_first = false;
      on_event({walk_.event().layer, walk_.event().rows, is_new_step,
                out.accesses - before.accesses, out.hits - before.hits,
                out.insertions - before.insertions});
    }
    return out;
  }

 private:
  struct Pool {
    std::unique_ptr<Policy> policy;
    int32_t free = 0;
    int32_t floor = 0;  // a layer keeps as many slots where layers compete
  };

  void learn_prompt(Pool& pool) {
    const RoutingTrace::Event& event = walk_.event();
    for (int32_t r = std::max(0, event.rows - kPromptRowsNoted); r < event.rows; ++r) {
      const std::span<const uint16_t> ids = trace_.row(event, r);
      for (int32_t rank = 0; rank < std::ssize(ids); ++rank) prompt_row_[rank] = {ids[rank], rank};
      pool.policy->use(event.layer, prompt_row_, walk_.now());
    }
  }

  void event(Pool& pool, Replay& out, double lambda) {
    const int32_t layer = walk_.event().layer;
    pool.policy->use(layer, walk_.picks(), walk_.now());
    misses_.clear();
    for (const Pick& pick : walk_.picks()) {
      if (!resident_[walk_.index({layer, pick.expert})]) misses_.push_back({layer, pick.expert});
    }
    count(out, walk_, trace_.header, std::ssize(walk_.picks()) - std::ssize(misses_));
    for (const ExpertId& miss : misses_) {
      if (pool.free == 0 && !give_up_one(pool, miss, lambda)) continue;
      --pool.free;
      pool.policy->admit(miss);
      resident_[walk_.index(miss)] = 1;
      ++residents_of_[layer];
      ++out.insertions;
    }
  }

  bool give_up_one(Pool& pool, ExpertId newcomer, double lambda) {
    const auto may_go = [this, &pool](ExpertId id) {
      const bool is_own = id.layer == walk_.event().layer;
      return !walk_.is_picked(id) && (is_own || residents_of_[id.layer] > pool.floor);
    };
    const std::optional<ExpertId> victim = pool.policy->offer_victims(may_go);
    if (!victim) return false;
    const bool has_floor = residents_of_[newcomer.layer] >= pool.floor;
    if (has_floor && !pool.policy->admits(newcomer, *victim, lambda)) return false;
    HOTSET_CHECK(resident_[walk_.index(*victim)], "a policy offered an absent expert");
    pool.policy->evict(*victim);
    resident_[walk_.index(*victim)] = 0;
    --residents_of_[victim->layer];
    ++pool.free;
    return true;
  }

  const RoutingTrace& trace_;
  Walk walk_;
  const std::vector<int32_t> pool_of_;
  std::vector<Pool> pools_;
  std::vector<uint8_t> resident_;      // [layers][experts]
  std::vector<int32_t> residents_of_;  // [layers]
  std::vector<ExpertId> misses_;       // of the running event
  std::vector<Pick> prompt_row_;
};

constexpr uint32_t kNever = std::numeric_limits<uint32_t>::max();

// For each pick of each event in turn, the number of the next event that picks it.
std::vector<uint32_t> next_uses(const RoutingTrace& trace) {
  Walk walk(trace);
  std::vector<size_t> accesses;  // index of the expert
  std::vector<uint32_t> event_of;
  for (uint32_t event = 0; walk.next(); ++event) {
    for (const Pick& pick : walk.picks()) {
      accesses.push_back(walk.index({walk.event().layer, pick.expert}));
      event_of.push_back(event);
    }
  }
  std::vector<uint32_t> seen(static_cast<size_t>(trace.header.layers) * trace.header.experts,
                             kNever);
  std::vector<uint32_t> next(accesses.size());
  for (size_t i = accesses.size(); i-- > 0;)
    next[i] = std::exchange(seen[accesses[i]], event_of[i]);
  return next;
}

}  // namespace

std::vector<ReplayPool> slot_pools(const TraceHeader& header, int32_t slots_per_layer,
                                   SlotSplit split) {
  std::vector<ReplayPool> pools;
  std::map<int64_t, size_t> pool_of_size;
  for (int32_t layer = 0; layer < header.layers; ++layer) {
    const auto [at, is_new] = pool_of_size.try_emplace(header.expert_bytes[layer], pools.size());
    if (is_new || split == SlotSplit::kEqual) pools.emplace_back();
    ReplayPool& pool = split == SlotSplit::kEqual ? pools.back() : pools[at->second];
    pool.layers.push_back(layer);
    pool.slots += slots_per_layer;
  }
  return pools;
}

std::vector<ReplayPool> slot_pools(const SlotPlan& plan) {
  std::vector<ReplayPool> pools;
  for (const SlotPlan::Class& c : plan.classes) pools.push_back({c.layers, c.residents_max()});
  return pools;
}

Replay replay(const RoutingTrace& trace, std::span<const ReplayPool> pools, const MakePolicy& make,
              double lambda, const OnEvent& on_event) {
  return PolicyReplay(trace, pools, make).run(lambda, on_event);
}

Replay replay_belady(const RoutingTrace& trace, std::span<const ReplayPool> pools,
                     int64_t first_token) {
  struct Candidate {
    uint32_t next;  // event that uses it
    uint32_t index;
    bool operator<(const Candidate& other) const {
      return next < other.next || (next == other.next && index < other.index);
    }
  };
  struct Pool {
    std::priority_queue<Candidate> latest;  // with entries that are out of date
    int32_t free;
  };
  std::vector<Pool> state;
  for (const ReplayPool& pool : pools) state.push_back({{}, pool.slots});
  const std::vector<int32_t> pool_of = pool_of_layer(trace.header, pools);
  const std::vector<uint32_t> next = next_uses(trace);
  std::vector<uint8_t> resident(static_cast<size_t>(trace.header.layers) * trace.header.experts);
  std::vector<uint32_t> next_of(resident.size(), kNever);
  std::vector<uint32_t> misses;
  size_t at = 0;
  Replay out;
  for (Walk walk(trace); walk.next();) {
    if (walk.is_prompt()) continue;
    Pool& pool = state[pool_of[walk.event().layer]];
    misses.clear();
    for (const Pick& pick : walk.picks()) {
      const auto i = static_cast<uint32_t>(walk.index({walk.event().layer, pick.expert}));
      next_of[i] = next[at++];
      pool.latest.push({next_of[i], i});
      if (resident[i]) continue;
      misses.push_back(i);
      resident[i] = 1;
      --pool.free;
    }
    while (pool.free < 0) {
      const Candidate last = pool.latest.top();
      pool.latest.pop();
      if (!resident[last.index] || next_of[last.index] != last.next) continue;
      resident[last.index] = 0;
      ++pool.free;
    }
    if (walk.now() < first_token) continue;
    count(out, walk, trace.header, std::ssize(walk.picks()) - std::ssize(misses));
    for (const uint32_t i : misses) out.insertions += resident[i];
  }
  return out;
}

int64_t compulsory_misses(const RoutingTrace& trace) {
  std::vector<float> uses = count_uses(trace);
  return std::count_if(uses.begin(), uses.end(), [](float n) { return n > 0; });
}

std::vector<float> count_uses(const RoutingTrace& trace) {
  std::vector<float> uses(static_cast<size_t>(trace.header.layers) * trace.header.experts);
  for (Walk walk(trace); walk.next();) {
    for (const Pick& pick : walk.picks()) ++uses[walk.index({walk.event().layer, pick.expert})];
  }
  return uses;
}

}  // namespace hotset
