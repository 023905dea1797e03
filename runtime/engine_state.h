// What an Engine is made of. For engine.cc and engine_card.cc only.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "cache/background_fill.h"
#include "cache/recorder.h"
#include "runtime/card/card_device.h"
#include "runtime/engine.h"
#include "runtime/host/host_device.h"
#include "runtime/model/expert_file_source.h"
#include "runtime/model/expert_predictor.h"
#include "runtime/model/expert_sidecar_source.h"
#include "runtime/model/forward.h"
#include "runtime/step_guard.h"

namespace hotset {

// A step's own observer and the engine's watcher as one.
struct WatchedObserver : StepObserver {
  StepObserver *own = nullptr, *watcher = nullptr;

  void on_hidden(int32_t layer, const float* x, int64_t rows) override {
    if (own) own->on_hidden(layer, x, rows);
    watcher->on_hidden(layer, x, rows);
  }
  void on_routing(int32_t layer, const int32_t* experts, const float* weights,
                  int64_t rows) override {
    if (own) own->on_routing(layer, experts, weights, rows);
    watcher->on_routing(layer, experts, weights, rows);
  }
};

// Where steps are computed, and what is set up there.
struct StepPlace {
  StepPlace(std::unique_ptr<Device> on, Recorder& recorder, const ModelConfig& config,
            int64_t rows_max);

  const std::unique_ptr<Device> device;
  ForwardPass forward;
  RouterPredictor router_predictor;
};

struct Engine::State {
  const ModelDescription description;
  const int64_t context;
  ThreadPool pool;
  const KernelTable& kernels;
  Weights weights;  // a card takes the dense image away
  const std::unique_ptr<Sidecar> sidecar;
  Recorder recorder;
  ExpertFileSource file_source;
  const std::unique_ptr<ExpertSidecarSource> sidecar_source;
  ExpertSource& source;
  ExpertCache cache;
  const int64_t chunk;
  int64_t rows_max;
  const std::shared_ptr<CardRuntime> card;
  std::unique_ptr<HostExperts> misses;  // of the card
  CardDevice* card_device = nullptr;    // of `place`, then of `left_place`
  std::string card_loss;                // why no step runs any more
  const int32_t sessions;
  const bool kv_f16;
  std::unique_ptr<StepPlace> place;
  // The card's, once it has been left: sessions and other threads may still know of it.
  std::unique_ptr<StepPlace> left_place;
  std::atomic<bool> has_left_card = false;
  const std::function<void(const MemoryPlan&)> before_leaving_card;
  ForcedRouting forced;
  const Prefetch prefetch;
  const std::function<void(const std::string&)> on_notice;
  ExpertPredictor* const predictor;  // null: the place's
  StepGuard guard;                   // of prefetch
  MemoryPlan plan, plan_without_card;
  WatchedObserver watched;
  std::vector<int32_t> tokens, logit_rows;
  std::vector<RowRun> runs;
  std::vector<BatchRow> fed;  // feed's rows
  std::mutex fills_mutex;
  // One more for each time the budget grew; those that have ended go then. Last: end before what
  // they use.
  std::vector<std::shared_ptr<BackgroundFill>> fills;

  // `w` may be without contents (Engine::plan): memory is reserved here and committed when it is
  // written.
  State(ModelDescription d, const EngineOptions& o, Weights w, std::unique_ptr<Sidecar> packed,
        std::unique_ptr<Ring> ring);

  std::unique_ptr<Device> make_device(const EngineOptions& o);
  std::unique_ptr<HostDevice> make_host_device(int64_t rows, int64_t cache_tokens);
  std::unique_ptr<StepPlace> make_place(std::unique_ptr<Device> on, int64_t rows);
  int64_t rows_with(bool is_on_card) const;
  void reserve_rows();
  MemoryPlan plan_of_host(const DeviceMemory& has) const;
  void plan_memory(const CardRoom& room);
  bool is_on_card() const { return card != nullptr && !has_left_card; }
  void leave_card(const std::string& reason);
  void check_card() const;
  void tell_failure();

  // Where all is resident there is nothing to read. A card's picks are seen too late to guess by.
  bool is_prefetching() const {
    if (cache.has_all_slots() || is_on_card() || prefetch == Prefetch::kOff) return false;
    return prefetch == Prefetch::kOn || guard.is_on();
  }
  StepOutput step(std::span<const BatchRow> rows, std::span<const uint8_t> greedy_ids,
                  StepObserver* observer);
  StepOutput run(const Batch& batch, StepObserver* observer);
  int32_t top_k() const { return static_cast<int32_t>(description.config.num_experts_per_tok); }
  SlotPlan plan_experts(int64_t bytes) const { return plan_slots(source, bytes, top_k()); }
  PolicyFactory policy_factory(const PolicyOptions& policy) const {
    return [policy, k = top_k()](PolicyShape shape) {
      shape.top_k = k;
      return make_policy(policy, std::move(shape));
    };
  }
  void start_filling() {
    const std::lock_guard lock(fills_mutex);
    std::erase_if(fills, [](const auto& fill) { return fill->has_ended(); });
    fills.push_back(std::make_shared<BackgroundFill>(cache, pool.size()));
  }
  void check_rows(std::span<const BatchRow> rows) const;
  void plan_runs(std::span<const BatchRow> rows);
};

}  // namespace hotset
