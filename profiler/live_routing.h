// What the ring of a running engine says of its last decoded tokens: their routing, as a trace for
// replays, and what a miss costs it. Knows no clock and no ring: records come in. Memory is
// bounded. Thread-compatible.
//
// A layer's record has picks of one source, resident or not, in the router's order (or, for reads,
// as they landed): the ranks of a layer's picks are put together from that, evenly, which is right
// in the mean. Prompts have no rows in the ring and are left out, as are tokens of which records
// were lost, and those of a card, whose ring names only the experts that the card lacked.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "cache/ring.h"
#include "profiler/routing_trace.h"
#include "profiler/tune.h"

namespace hotset {

class LiveRouting {
 public:
  // Keeps the last `tokens_max`, fewer where they would take more than 64 MB. Throws Error: a ring
  // whose header gives no usable number of picks.
  LiveRouting(const RingHeader& header, int64_t tokens_max);

  // Records in the order of their times. `on_token` hears the ms of each token's step.
  void absorb(std::span<const Record> records, const std::function<void(double)>& on_token);
  int64_t tokens() const { return std::ssize(tokens_); }
  RoutingTrace trace() const;  // without the experts' sizes
  // miss_ms: by how much longer a layer's experts usually took for each one that was missed, by
  // least squares within each layer, and no less than was waited for its read; 0 where nothing was
  // missed, or it made no difference. rest_ms: what is left of the tokens' steps.
  TuneCosts costs() const;

 private:
  struct Token {
    double ms = 0, waited_ms = 0;   // for reads
    std::vector<uint16_t> ids;      // [layers][top_k]
    std::vector<uint16_t> misses;   // [layers]
    std::vector<float> experts_ms;  // [layers]
  };
  struct Ranked {
    double place = 0;
    uint16_t expert = 0;
  };
  void begin_step(const Record& record);
  void add_layer(const Record& record);
  void add_wait(const Record& record);
  // False where records were lost: it has not all of them.
  bool rank_picks(int32_t layer);
  void end_step(const Record& record, const std::function<void(double)>& on_token);

  const int32_t layers_, experts_, top_k_;
  const size_t tokens_max_;
  std::deque<Token> tokens_;

  // The running step.
  Token token_;
  uint32_t step_ = 0;
  bool is_open_ = false;
  std::vector<std::vector<uint16_t>> hits_, missed_;  // [layers], in the order they came
};

}  // namespace hotset
