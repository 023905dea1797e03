// Decides what to try on a running engine, and whether it stays: one change at a time, kept only if
// the tokens after it were measured to be faster than those before it, and taken back otherwise.
// Pure: measurements come in, acts come out; who performs them is tools/auto_tuning.h.
//
//   watch kWindow tokens -> replay candidates, each one change away -> try the best, if one is
//   surely better -> let kSettle tokens pass -> watch kWindow tokens -> keep it or take it back
//
// What was taken back is not tried again for kRefusedFor tokens. Thread-compatible.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "profiler/tune.h"

namespace hotset {

struct TuneAct {
  enum class Kind { kTry, kKeep, kTakeBack };
  Kind kind = Kind::kTry;
  PolicyOptions from, to;  // what the engine had, and what it has from now on (kKeep: goes on with)
  // A token: expected of kTry, else measured of what was tried; nothing if it was abandoned.
  std::optional<Interval> gain_ms;
};
constexpr const char* tune_act_name(TuneAct::Kind kind) {
  constexpr const char* kNames[] = {"try", "keep", "take back"};
  return kNames[static_cast<int>(kind)];
}

class AutoTuner {
 public:
  static constexpr int64_t kWindow = 256, kSettle = 64;  // tokens
  static constexpr int64_t kPause = 1024;                // between two replays that found nothing
  static constexpr int64_t kRefusedFor = 8192;

  explicit AutoTuner(const PolicyOptions& present) : present_(present) {}

  // What the engine should have at the moment.
  const PolicyOptions& present() const { return present_; }
  bool is_trying() const { return trial_.has_value(); }

  void token(double ms);  // that one took

  // Whether it is time to look for something better: then replay `candidates` (the present first)
  // and tell what came of it.
  bool wants_candidates() const;
  std::vector<PolicyOptions> candidates() const;
  std::optional<TuneAct> propose(std::span<const TuneRow> rows);
  // What is to become of the trial, once it has been watched; nothing before.
  std::optional<TuneAct> verdict();

  // Takes back what is being tried, if anything is: it will not be watched to its end.
  std::optional<TuneAct> abandon();
  // The engine has another setting than it should: somebody changed it, or an act failed. A trial
  // is over, and nothing of it is taken back.
  void reset(const PolicyOptions& present);

 private:
  struct Trial {
    PolicyOptions from;
    std::deque<double> before;  // ms of tokens
    int64_t settled = 0;
  };
  struct Refusal {
    PolicyOptions setting;
    int64_t until = 0;
  };
  bool is_refused(const PolicyOptions& setting) const;

  PolicyOptions present_;
  std::optional<Trial> trial_;
  std::deque<double> window_;  // ms of the last tokens under the present setting
  std::vector<Refusal> refused_;
  int64_t tokens_ = 0, look_at_ = 0;
};

}  // namespace hotset
