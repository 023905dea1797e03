#include "tools/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "tools/interrupt.h"
#include "tools/size.h"

namespace hotset {
namespace {

constexpr auto kQuiet = std::chrono::seconds(1);
constexpr auto kPeriod = std::chrono::milliseconds(100);
constexpr int kWidth = 24;

}  // namespace

ProgressBar::ProgressBar()
    : is_terminal_(isatty(STDERR_FILENO) == 1), start_(Clock::now()), next_(start_ + kQuiet) {}

ProgressBar::~ProgressBar() {
  if (is_drawn_) std::fputs("\r\x1b[K", stderr);
}

void ProgressBar::update(int64_t done_bytes, int64_t total_bytes, const char* what) {
  throw_if_interrupted();
  const auto now = Clock::now();
  if (!is_terminal_ || now < next_ || total_bytes <= 0) return;
  next_ = now + kPeriod;
  is_drawn_ = true;
  const double part =
      std::min(1.0, static_cast<double>(done_bytes) / static_cast<double>(total_bytes));
  const auto full = static_cast<size_t>(part * kWidth);
  const std::string bar = std::string(full, '#') + std::string(kWidth - full, '.');
  fmt::print(stderr, "\r{} [{}] {:3.0f} % of {}\x1b[K", what, bar, 100 * part,
             human_bytes(total_bytes));
  std::fflush(stderr);
}

}  // namespace hotset
