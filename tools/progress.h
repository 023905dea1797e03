// A line on the terminal that says how far something long has come. Nothing where stderr is not a
// terminal, and nothing in the first second.
#pragma once

#include <chrono>
#include <cstdint>

namespace hotset {

class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();  // clears the line
  ProgressBar(const ProgressBar&) = delete;

  // Also where long work notices Ctrl-C: throws Interrupted.
  void update(int64_t done_bytes, int64_t total_bytes, const char* what);

 private:
  using Clock = std::chrono::steady_clock;
  const bool is_terminal_;
  const Clock::time_point start_;
  Clock::time_point next_;
  bool is_drawn_ = false;
};

}  // namespace hotset
