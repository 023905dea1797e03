// What the records of one engine add up to. Knows no clock and no ring: records come in, sums go
// out. Memory is bounded by the engine's layers and experts. Thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cache/ring.h"
#include "profiler/histogram.h"
#include "profiler/token.h"

namespace hotset {

struct PickCounts {
  std::array<uint64_t, kPickSources> by_source = {};

  uint64_t hits() const { return by_source[0]; }
  uint64_t misses() const;
  double hit_rate() const;  // 0 without picks
  PickCounts& operator+=(const PickCounts& other);
};

struct TransferCounts {
  uint64_t count = 0, bytes = 0, ns = 0;
};

// Sums over a span of time or all of it; times in ns.
struct TimeCounts {
  uint64_t tokens = 0, prompt_rows = 0;
  uint64_t compute_ns = 0, read_wait_ns = 0, card_wait_ns = 0, other_ns = 0;  // of `tokens`
};

class Statistics {
 public:
  explicit Statistics(const RingHeader& header);

  // Records in the order of their times. `on_token` sees every complete step.
  void absorb(std::span<const Record> records, const std::function<void(const Token&)>& on_token);
  // Heat fades with time: half of it in a minute.
  void fade(double seconds);

  int32_t layers() const { return layers_; }
  int32_t experts() const { return experts_; }

  const PickCounts& picks() const { return picks_; }
  const PickCounts& layer_picks(int32_t layer) const { return layer_picks_[layer]; }
  const TimeCounts& time() const { return time_; }
  // Over the `seconds` (at most 60) that end with `now_ns`; `layer` -1: all.
  PickCounts recent_picks(uint64_t now_ns, int seconds, int32_t layer = -1) const;
  TimeCounts recent_time(uint64_t now_ns, int seconds) const;
  // Of a card's slots: hits are its own, misses are the host's picks.
  PickCounts recent_card_picks(uint64_t now_ns, int seconds) const;
  // Tokens a second in that span, of which what lies before the first step counts for nothing.
  double recent_rate(uint64_t now_ns, int seconds) const;

  const Histogram& token_ns() const { return token_ns_; }  // between tokens
  const Histogram& read_ns() const { return read_ns_; }    // one expert
  // Distinct experts of the layer that were used since an expert was used last: with so many slots
  // a layer, LRU would have missed.
  Histogram reuse_distance() const;
  uint64_t first_uses() const { return first_uses_; }

  const TransferCounts& reads(TransferCause cause) const;
  const TransferCounts& copies(TransferCause cause) const;
  uint64_t bytes_read() const;

  uint64_t admissions() const { return admissions_; }
  uint64_t evictions() const { return evictions_; }
  uint64_t admissions_hit() const { return admissions_hit_; }    // at least once
  uint64_t evictions_unhit() const { return evictions_unhit_; }  // never

  struct Card {
    bool is_known = false;  // an engine on a card
    PickCounts picks;
    int64_t slot_bytes = 0, resident_bytes = 0;
  };
  const Card& card() const { return card_; }

  uint64_t predicted() const { return predicted_; }
  uint64_t predicted_right() const { return predicted_right_; }
  uint64_t predicted_of() const { return predicted_of_; }  // picks in the same layers

  struct Guard {
    bool is_known = false, is_on = true;
    double gain_ms = 0;
    uint64_t changes = 0;
  };
  const Guard& guard(GuardLane lane) const { return guards_[static_cast<size_t>(lane)]; }
  uint64_t errors() const { return errors_; }
  const std::string& last_error() const { return last_error_; }
  uint64_t budget_changes() const { return budget_changes_; }

  float heat(int32_t layer, int32_t expert) const { return heat_[index(layer, expert)]; }

 private:
  enum class Use : uint8_t { kUnknown, kAdmitted, kHit, kEvictedUnhit };
  struct Second {
    uint64_t second = 0;
    std::vector<PickCounts> layers;
    PickCounts card;
    TimeCounts time;
  };
  static constexpr int kSeconds = 64;

  size_t index(int32_t layer, int32_t expert) const {
    return static_cast<size_t>(layer) * experts_ + expert;
  }
  Second& second_of(uint64_t time_ns);
  void begin_step(const Record& record);
  void absorb_layer(const Record& record);
  void absorb_eviction(const Record& record);
  void count_hit(size_t at, uint32_t step);
  void absorb_range(const Record& record);
  void absorb_card(const Record& record);
  void end_event();
  void move_back(std::span<int16_t> ranks);
  bool is_of_token(const Record& record) const {
    return token_.is_complete && record.step == token_.step;
  }
  void end_step(const Record& record, const std::function<void(const Token&)>& on_token);
  void notice_topic();

  const int32_t layers_, experts_, k_;
  PickCounts picks_;
  std::vector<PickCounts> layer_picks_;
  TimeCounts time_;
  std::vector<Second> seconds_;
  Histogram token_ns_, read_ns_;
  uint64_t first_uses_ = 0;
  std::array<TransferCounts, kTransferCauses> reads_, copies_;
  uint64_t admissions_ = 0, evictions_ = 0, admissions_hit_ = 0, evictions_unhit_ = 0;
  uint64_t predicted_ = 0, predicted_right_ = 0, predicted_of_ = 0;
  std::array<Guard, kGuardLanes> guards_;
  Card card_;
  uint64_t errors_ = 0, budget_changes_ = 0;
  std::string last_error_;
  std::vector<float> heat_;           // [layers][experts]
  std::vector<Use> use_;              // [layers][experts]
  std::vector<uint32_t> evicted_in_;  // [layers][experts]: the step, of those evicted unhit

  // The running step, and the layer's event that its picks belong to.
  Token token_;
  int64_t next_position_ = -1;
  uint64_t first_begin_ns_ = 0, last_end_ns_ = 0;
  int32_t event_layer_ = -1;
  std::vector<uint16_t> event_;       // each expert once
  std::vector<uint8_t> is_in_event_;  // [experts]
  // How many of the layer's others have been used since an expert was, or that it has not been.
  static constexpr int16_t kNeverUsed = INT16_MAX;
  std::vector<uint64_t> reuses_;  // [experts]: how often a distance was found
  std::vector<int16_t> rank_;     // [layers][experts]
  std::vector<int16_t> moves_;    // [experts]: move_back()'s
  // How many of a token's picks had been used shortly before; its usual value; how long ago it
  // fell well below that.
  uint64_t familiar_ = 0, familiar_of_ = 0;
  double usually_familiar_ = -1;
  int since_topic_change_ = 1 << 20;
};

}  // namespace hotset
