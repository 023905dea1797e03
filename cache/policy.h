// Which expert to give up, and whether a newcomer is worth it. One policy object serves one size
// class and owns its order. A policy chooses, the cache evicts exactly that.
//
// The caller guarantees: `use` comes once per event, before the event's victims are asked for;
// admit and evict tell every change of residency; `now` never goes back. All memory is taken at
// construction. Thread-compatible: the cache calls it under its mutex.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "cache/expert_id.h"

namespace hotset {

// Of a prompt, its last rows say what the text after it will use: a policy hears of so many.
inline constexpr int32_t kPromptRowsNoted = 32;

// What a policy may be asked about: the experts of some layers of a model.
struct PolicyShape {
  int32_t layer_count = 0, experts_per_layer = 0;  // of the whole model
  int32_t top_k = 0;                               // ranks of a row: 0 to top_k - 1
  std::vector<int32_t> layers;                     // the size class's
};

class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::string_view name() const = 0;

  // An event: what a layer of a step picked, resident or not, in any order, at `now` in tokens.
  virtual void use(int32_t layer, std::span<const Pick> picks, int64_t now) = 0;

  virtual void admit(ExpertId expert) = 0;  // is resident from now on
  virtual void evict(ExpertId expert) = 0;  // is not any more

  // Offers residents one after another, the one it would rather lose first, until `accept` returns
  // true. The cache refuses what is leased, what the running event needs, what was read ahead and
  // not used yet, and the last top_k of another layer. Returns the accepted one; none if all were
  // refused. Shrinking a tier is asking for as many victims as slots have to go.
  virtual std::optional<ExpertId> offer_victims(const std::function<bool(ExpertId)>& accept) = 0;

  // Whether `newcomer` may take the place of `victim`, at the price of `lambda` hits: what a copy
  // costs over what one hit saves, measured by the cache; 0 for a copy that had to happen anyway.
  virtual bool admits(ExpertId newcomer, ExpertId victim, double lambda) = 0;

  // How much the policy would like the expert to be resident, as of the last use: comparable with
  // all others of this policy, >= 0, and 0 for what was never used.
  virtual double score(ExpertId expert) const = 0;

  // Takes over the scores that another run, or another policy, had ([layer][expert] of the whole
  // model, finite and >= 0), before the first use. Residency stays as it is.
  virtual void restore(std::span<const float> scores) = 0;
  // The scores of this policy's layers into `scores` ([layer][expert] of the whole model).
  void save(std::span<float> scores) const;

  virtual void verify() = 0;  // recomputes its order; aborts on a contradiction

 protected:
  explicit Policy(PolicyShape shape) : shape_(std::move(shape)) {}
  int32_t index(ExpertId id) const { return id.layer * shape_.experts_per_layer + id.expert; }
  ExpertId expert_at(int32_t index) const {
    return {index / shape_.experts_per_layer, index % shape_.experts_per_layer};
  }
  int32_t index_count() const { return shape_.layer_count * shape_.experts_per_layer; }
  const PolicyShape shape_;
};

// Places of the scores, the best first, equal ones in their order: as a tier is filled.
std::vector<uint32_t> best_first(std::span<const float> scores);

enum class PolicyKind { kScore, kLru, kLfu, kStatic };
// The names of the kinds, in their order: score, lru, lfu, static.
std::span<const std::string_view> policy_names();
std::optional<PolicyKind> policy_named(std::string_view name);

struct PolicyOptions {
  PolicyKind kind = PolicyKind::kScore;
  double half_life = 0;  // of score, in tokens; 0: chosen while running

  bool operator==(const PolicyOptions&) const = default;
};
std::unique_ptr<Policy> make_policy(const PolicyOptions& options, PolicyShape shape);

}  // namespace hotset
