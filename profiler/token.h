// One step of an engine, put together from its records, and the sentence that says where its time
// went.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hotset {

struct Token {
  uint32_t step = 0;
  int64_t position = 0, rows = 0;
  int64_t step_ns = 0;
  int64_t gap_ns = 0;  // since the session's step before: sampling, output, the caller
  int64_t compute_ns = 0, read_wait_ns = 0, card_wait_ns = 0;  // parts of step_ns
  int64_t reads = 0, read_bytes = 0;                           // waited for
  bool failed = false, is_complete = false, follows = false;   // follows: gap_ns is known
  bool after_topic_change = false;

  struct Wait {
    int32_t layer = 0;
    int64_t ns = 0;
  };
  std::vector<Wait> waits;  // by layer

  int64_t latency_ns() const { return gap_ns + step_ns; }
  int64_t other_ns() const { return latency_ns() - compute_ns - read_wait_ns - card_wait_ns; }
};

// "token 812: 41 ms, 33 ms waiting for 6 reads in layers 3, 7, 20 after a topic change"
std::string explain(const Token& token);

// Which part of its time was the largest: "reads", "card", "compute" or "other".
const char* cause_of(const Token& token);

}  // namespace hotset
