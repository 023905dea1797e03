#include "profiler/auto_tuner.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr double kHalfLives[] = {0, 4, 8, 16, 32, 64};
constexpr PolicyKind kKinds[] = {PolicyKind::kScore, PolicyKind::kLru, PolicyKind::kLfu};

bool is_one_change(const PolicyOptions& a, const PolicyOptions& b) {
  return (a.kind != b.kind) + (a.half_life != b.half_life) == 1;
}

// By means of blocks: tokens that follow each other are alike.
Interval mean_of(const std::deque<double>& ms) {
  constexpr size_t kBlock = 16;
  std::vector<double> blocks;
  for (size_t first = 0; first + kBlock <= ms.size(); first += kBlock) {
    double sum = 0;
    for (size_t i = first; i < first + kBlock; ++i) sum += ms[i];
    blocks.push_back(sum / kBlock);
  }
  return mean_interval(blocks, kTuneConfidence);
}

// Windows are independent: the squares of their widths add up.
Interval difference(const Interval& a, const Interval& b) {
  return {a.mean - b.mean, std::hypot(a.half_width, b.half_width)};
}

}  // namespace

void AutoTuner::token(double ms) {
  ++tokens_;
  if (trial_ && trial_->settled < kSettle) {
    ++trial_->settled;
    return;
  }
  window_.push_back(ms);
  // A trial's window ends where it is full: verdict() may come some tokens later.
  if (std::ssize(window_) > kWindow) trial_ ? window_.pop_back() : window_.pop_front();
}

bool AutoTuner::wants_candidates() const {
  return !trial_ && std::ssize(window_) == kWindow && tokens_ >= look_at_;
}

bool AutoTuner::is_refused(const PolicyOptions& setting) const {
  return std::any_of(refused_.begin(), refused_.end(),
                     [&](const Refusal& r) { return r.setting == setting && tokens_ < r.until; });
}

std::vector<PolicyOptions> AutoTuner::candidates() const {
  std::vector<PolicyOptions> all = {present_};
  const auto add = [&](const PolicyOptions& setting) {
    if (is_one_change(present_, setting) && !is_refused(setting)) all.push_back(setting);
  };
  for (const PolicyKind kind : kKinds) add({kind, present_.half_life});
  if (present_.kind != PolicyKind::kScore) return all;  // no other has one
  for (const double half_life : kHalfLives) add({present_.kind, half_life});
  return all;
}

std::optional<TuneAct> AutoTuner::propose(std::span<const TuneRow> rows) {
  HOTSET_CHECK(!trial_, "one change at a time");
  look_at_ = tokens_ + kPause;
  const size_t best = rows.empty() ? 0 : best_row(rows);
  if (best == 0) return std::nullopt;
  const PolicyOptions& to = rows[best].setting.policy;
  HOTSET_CHECK(is_one_change(present_, to), "a candidate is one change away");
  const TuneAct act = {TuneAct::Kind::kTry, present_, to, rows[best].gain_ms};
  trial_ = Trial{present_, std::move(window_), 0};
  window_.clear();
  present_ = to;
  return act;
}

std::optional<TuneAct> AutoTuner::verdict() {
  if (!trial_ || std::ssize(window_) < kWindow) return std::nullopt;
  const Interval gain = difference(mean_of(trial_->before), mean_of(window_));
  const bool helped = gain.low() > 0;
  const PolicyOptions tried = present_, from = trial_->from;
  trial_.reset();
  if (helped) return TuneAct{TuneAct::Kind::kKeep, from, tried, gain};
  std::erase_if(refused_, [&](const Refusal& r) { return tokens_ >= r.until; });
  refused_.push_back({tried, tokens_ + kRefusedFor});
  reset(from);
  return TuneAct{TuneAct::Kind::kTakeBack, tried, from, gain};
}

std::optional<TuneAct> AutoTuner::abandon() {
  if (!trial_) return std::nullopt;
  const TuneAct act = {TuneAct::Kind::kTakeBack, present_, trial_->from, std::nullopt};
  reset(act.to);
  return act;
}

void AutoTuner::reset(const PolicyOptions& present) {
  trial_.reset();
  window_.clear();
  present_ = present;
}

}  // namespace hotset
