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

// Where steps are computed, and what is set up there. Of a card that was left it goes with the last
// of those who use it, sessions and other threads.
struct StepPlace {
  StepPlace(std::unique_ptr<Device> on, Recorder& recorder, const ModelConfig& config,
            int64_t rows_max);
  StepPlace(std::unique_ptr<HostExperts> misses, std::unique_ptr<CardDevice> on, Recorder& recorder,
            const ModelConfig& config, int64_t rows_max);

  const std::unique_ptr<HostExperts> misses;  // of a card
  CardDevice* const card = nullptr;           // the device, if it is one
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
  std::string card_loss;  // why no step runs any more
  const int32_t sessions;
  const bool kv_f16;
  // The steps' thread changes it under the mutex, which it needs for nothing else.
  std::shared_ptr<StepPlace> place;
  mutable std::mutex place_mutex;
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

  std::shared_ptr<StepPlace> make_place(const EngineOptions& o);
  std::shared_ptr<StepPlace> make_host_place(int64_t rows, int64_t cache_tokens);
  int64_t rows_with(bool is_on_card) const;
  void reserve_rows();
  MemoryPlan plan_of_host(const DeviceMemory& has) const;
  void plan_memory(const CardRoom& room);
  bool is_on_card() const { return card != nullptr && !has_left_card; }
  std::shared_ptr<CardDevice> card_device() const;  // for any thread; null: none, or it was left
  void leave_card(const std::string& what);
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
