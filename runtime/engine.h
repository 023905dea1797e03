// An opened model ready to compute steps: packed weights on a device, the expert cache, and the
// memory for a number of sessions. The model part is immutable; everything that changes with text
// is in Session. Thread-compatible: one step at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache/card_tier.h"
#include "cache/expert_cache.h"
#include "cache/prompt_plan.h"
#include "cache/ring.h"
#include "kernels/cuda/card_runtime.h"
#include "kernels/thread_pool.h"
#include "runtime/card/card_room.h"
#include "runtime/card/prompt_stats.h"
#include "runtime/model/sidecar.h"
#include "runtime/session.h"
#include "runtime/weights/landing_file.h"
#include "runtime/weights/model_description.h"

namespace hotset {

class ExpertPredictor;

enum class KvType { kF16, kF32 };

// Whether experts are read ahead of the layer that is guessed to pick them. Auto: while that makes
// tokens faster, which is measured all along.
enum class Prefetch { kAuto, kOn, kOff };

struct MemoryPlan;

struct EngineOptions {
  int threads = 1;
  Pinning pinning = Pinning::kNone;
  std::string isa = "auto";  // a kernel table's name
  int64_t context = 0;       // positions a session; 0: min(model's, 8192)
  int32_t sessions = 1;      // sessions that may be open at once
  KvType kv_type = KvType::kF16;
  int64_t expert_bytes = INT64_MAX;  // budget for routed experts in RAM
  // What was learned of this model's experts before, [layer][expert] (ExpertCache::save_scores):
  // the best are loaded first, and kept. Empty: nothing.
  std::vector<float> expert_scores = {};
  PolicyOptions policy = {};  // who stays in RAM where not all experts do
  FileReads reads =
      FileReads::kBuffered;  // of experts that steps need; direct: past the page cache
  Prefetch prefetch = Prefetch::kAuto;
  ExpertPredictor* predictor = nullptr;  // must outlive the engine; null: the next layer's router
  // Called by step() with what the user should know once: prefetch does not pay, and the like.
  std::function<void(const std::string&)> on_notice = nullptr;
  int io_threads = 4;  // that read experts a step waits for
  // A card to compute on: dense weights and sequences in its memory, and as many hot experts as
  // `card_room` lets them; the host keeps computing the others. Null: the host computes all.
  std::shared_ptr<CardRuntime> card = nullptr;
  CardRoom card_room = {};
  CardTierOptions card_tier = {};
  PromptOptions card_prompts = {};
  // Asked before the host goes on without a card that has failed (Engine::leave_card), with what it
  // then takes; throws Error where it may not. Null: it never does.
  std::function<void(const MemoryPlan&)> before_leaving_card = nullptr;
  int32_t chunk = 512;  // rows of a prompt that go through together where the model is resident
};

// What a card has, in bytes.
struct CardMemoryPlan {
  int64_t dense = 0, recurrent = 0, workspace = 0;
  int64_t prompts = 0;             // the ring that they copy experts into, at the start
  int64_t slot_bytes = 0, kv = 0;  // experts at the start; all positions
  int64_t slow_bytes = 0;          // of slot_bytes: not the card's own, by the time they take
  int64_t shared = 0;              // what both have together: kv grows, experts give way
  int64_t total() const { return dense + recurrent + workspace + prompts + shared; }
};

// Where the host's memory goes, in bytes; printed at start. With a card, which has what is 0 here.
struct MemoryPlan {
  int64_t dense = 0;      // packed matrices and vectors that are always needed
  int64_t embedding = 0;  // in source form
  SlotPlan experts;
  int64_t kv = 0, recurrent = 0;  // reserved; committed as it grows
  int64_t workspace = 0;
  int64_t landing = 0;  // experts that have been read and wait to be packed
  int64_t ring = 0;     // what watchers read
  int64_t pinned = 0;   // what a card and the host exchange
  std::optional<CardMemoryPlan> card;
  int64_t total() const {
    return dense + embedding + experts.slot_bytes_total + kv + recurrent + workspace + landing +
           ring + pinned;
  }
};

// One row of a step. A session's rows are consecutive, their positions follow on from its own.
struct BatchRow {
  Session* session = nullptr;
  int32_t token = 0;
  int64_t position = 0;
  bool wants_logits = false;
};

// What a step shows to those who look (hotset eval). Buffers are valid during the call only.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  // After the embedding (layer = -1) and after each layer: [rows][hidden].
  virtual void on_hidden(int32_t layer, const float* x, int64_t rows) = 0;
  // Per MoE layer: experts [rows][k] in router rank order, with their weights.
  virtual void on_routing(int32_t layer, const int32_t* experts, const float* weights,
                          int64_t rows) = 0;
};

// Picks that take the place of the router's own: writes [rows][k] distinct experts, heaviest first.
// Their weights are the softmax of the router's logits over them.
using ForcedRouting = std::function<void(int32_t layer, int32_t* experts, int64_t rows)>;

class Engine {
 public:
  // `progress(bytes done, bytes in all, what)` is called while weights are read; it may throw to
  // stop.
  using Progress = std::function<void(int64_t, int64_t, const char*)>;
  // Returns when the first step can run. Where there is room for every expert, threads then load
  // them one after another behind the steps; where there is not, those that have scores. Weights
  // come from `sidecar` if there is one; it is of this model, and what is damaged in it is taken
  // from the model's file. `ring`: where watchers read what the engine does; none: nobody watches.
  Engine(ModelDescription description, const EngineOptions& options, const Progress& progress,
         std::unique_ptr<Sidecar> sidecar = nullptr, std::unique_ptr<Ring> ring = nullptr);
  ~Engine();

  // Returns when everything is resident for which there is room, which nobody but a measurement
  // needs. What `progress` throws ends the waiting, not the loading. Throws the Error of an expert
  // that cannot be loaded.
  void wait_until_resident(const Progress& progress);

  // Both at any time, from any thread; they wait for the running layer of a step. The best experts
  // stay resident, and where the budget grows the next best follow in the background.
  void resize_experts(int64_t budget_bytes);
  void replace_policy(const PolicyOptions& policy);
  SlotPlan plan_experts(int64_t budget_bytes) const;  // what resize_experts would make of it
  // Likewise of a card, if the engine has one; waits for the running step. Throws Error if the card
  // has no such room; then all is as before.
  void set_card_room(const CardRoom& room);
  // What slots and sequences have of it now, and prompts, which get theirs when not all experts
  // have slots any more. 0 without a card.
  int64_t card_shared_bytes() const;
  int64_t card_ring_bytes() const;

  // What construction would take, without reading weights.
  static MemoryPlan plan(const ModelDescription& description, const EngineOptions& options);

  const ModelDescription& description() const;
  const ModelConfig& config() const { return description().config; }
  const MemoryPlan& memory_plan() const;
  const char* isa() const;
  CardRuntime* card() const;  // null: the host computes all
  // Likewise. Whole while it is held, though the card is left meanwhile; the engine must outlive
  // it.
  std::shared_ptr<const CardTier> card_tier() const;
  PromptStats prompt_stats() const;  // zeroes without a card
  int threads() const;
  int64_t context() const;  // positions a session can hold
  int64_t rows_per_step()
      const;  // most rows a step takes: `chunk`, or the context where experts are not all resident

  Session open_session();  // throws Error if all are in use
  // Computes the rows and advances their sessions. Returns logits [rows that want them][vocab],
  // valid until the next step. An Error (a read failed, an activation is not finite) leaves the
  // sessions where they were, except that a session with recurrent state must then be restored from
  // a snapshot or reset. Where the card was lost in a step every later one is refused, unless it is
  // left: with a CardError, so that who could not leave it then asks again.
  std::span<const float> step(std::span<const BatchRow> rows, StepObserver* observer = nullptr);
  // Likewise, but of each row that wants logits only the largest_logit (sampler.h) of `allowed`, an
  // id: a card then gives the host four bytes a row. No more rows want it than there are sessions.
  std::span<const int32_t> step_greedy(std::span<const BatchRow> rows,
                                       std::span<const uint8_t> allowed);

  // After a CardError, and where before_leaving_card is there to ask: the host computes everything
  // from here on. The dense weights are read again. Sessions that are open keep tokens() and
  // nothing else: others are to be opened, and fed with these; what the card's side has in memory
  // goes with the last of them. Throws Error with the reason and why the host cannot go on; then
  // all is as before.
  bool may_leave_card() const;
  void leave_card(const std::string& reason);

  // Shows every step to `watcher`, besides the step's own observer; nullptr: to nobody.
  void watch(StepObserver* watcher);
  // For measurements on weights that mean nothing (hotset bench --routing); empty: the router's.
  void force_routing(ForcedRouting forced);

  bool is_prefetching() const;  // as of the next step
  CacheStats cache_stats() const;
  const ExpertCache& cache() const;
  const File& expert_file() const;  // from which experts are read; the largest of several
  // Bytes of weights that one decoded token reads: dense matrices and k experts a layer.
  int64_t bytes_per_token() const;
  // Of it, what layers read between their router and their combination.
  int64_t expert_bytes_per_token() const;

 private:
  friend std::span<const float> feed(Engine&, Session&, std::span<const int32_t>, int64_t,
                                     const std::function<void(std::span<const float>)>&,
                                     StepObserver*);
  struct State;
  std::unique_ptr<State> state_;
};

// Feeds `tokens` to a session in steps of at most rows_per_step (or `chunk` if > 0); returns the
// logits of the last one, or, if `all` is set, calls it with the logits of each step's rows in
// turn.
std::span<const float> feed(Engine& engine, Session& session, std::span<const int32_t> tokens,
                            int64_t chunk = 0,
                            const std::function<void(std::span<const float>)>& all = nullptr,
                            StepObserver* observer = nullptr);

}  // namespace hotset
