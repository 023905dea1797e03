#include "runtime/card/prompt_ring.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

namespace hotset {

namespace {

// Slots of a part: its kernels' launches are as many as those of a single expert, and few experts
// have enough rows to fill a card. (Not measured on a card.)
constexpr int32_t kPart = 4;

}  // namespace

PromptRing::PromptRing(CardRuntime& card, CardStream steps, ExpertCache& cache,
                       int32_t experts_per_layer, int64_t slot_bytes, const PromptOptions& options)
    : card_(card),
      steps_(steps),
      cache_(cache),
      slot_bytes_(slot_bytes),
      part_(std::min({kPart, options.ring, experts_per_layer})),
      parts_(part_ == 0 ? 0 : std::min(options.ring, experts_per_layer) / part_),
      fixed_break_even_(options.break_even),
      memory_(card, CardMemory::Place::kCard, int64_t{part_} * parts_ * slot_bytes,
              "a ring for prompts"),
      stream_(card) {
  for (int32_t i = 0; i < parts_; ++i) used_.emplace_back(card);
  for (int i = 0; i < 2 && parts_ > 0; ++i) stagings_.emplace_back(card, part_ * slot_bytes);
  held_.reserve(experts_per_layer);
}

int32_t PromptRing::slots() const {
  const std::lock_guard lock(mutex_);
  return has_failed_ ? 0 : part_ * parts_;
}

double PromptRing::break_even() const {
  const std::lock_guard lock(mutex_);
  return fixed_break_even_.value_or(price_.lambda());
}

bool PromptRing::hold(ExpertId id) {
  const std::byte* const bytes = cache_.hold_resident(id);
  if (bytes == nullptr) return false;
  held_.push_back({id, bytes});
  return true;
}

void PromptRing::cancel() noexcept {
  for (; released_ < held_.size(); ++released_) cache_.release_resident(held_[released_].id);
  held_.clear();
  released_ = 0;
}

void PromptRing::stage(std::span<const Held> part, std::byte* to, int64_t bytes) {
  for (const Held& held : part) {
    std::memcpy(to, held.bytes, static_cast<size_t>(bytes));
    to += bytes;
    cache_.release_resident(held.id);
    ++released_;
  }
}

// Where the third part finds a staging buffer free the first one's copies have completed, and so on
// behind it: that is what the copies' time is taken from, while the CPU computes beside them.
void PromptRing::run(int64_t bytes, std::span<const PromptPlan::Copied> copied,
                     const Compute& compute) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  int64_t completed = 0;
  std::chrono::duration<double> seconds{0};
  try {
    for (size_t first = 0, number = 0; first < copied.size(); ++number) {
      const size_t count = std::min<size_t>(part_, copied.size() - first);
      Staging& staging = stagings_[number % 2];
      const CardEvent used = used_[number % parts_].event;
      std::byte* const to = data() + number % parts_ * part_ * slot_bytes_;
      card_.synchronise(staging.copied.event);
      if (number >= 2) {
        completed += part_;
        seconds = Clock::now() - begin;
      }
      stage(std::span(held_).subspan(first, count), staging.memory.data(), bytes);
      card_.wait(stream_.stream, used);
      for (size_t i = 0; i < count; ++i) {
        const auto at = static_cast<int64_t>(i);
        card_.copy(stream_.stream, to + at * slot_bytes_, staging.memory.data() + at * bytes,
                   bytes);
      }
      card_.record(staging.copied.event, stream_.stream);
      card_.wait(steps_, staging.copied.event);
      compute(copied[first].begin, copied[first + count - 1].end);
      card_.record(used, steps_);
      first += count;
    }
  } catch (const CardError& error) {
    const std::lock_guard lock(mutex_);
    has_failed_ = true;
    failure_ = error.what();
    throw;
  }
  cancel();
  const std::lock_guard lock(mutex_);
  price_.add_copies(completed, seconds.count());
  stats_.copied += std::ssize(copied);
  stats_.copied_bytes += std::ssize(copied) * bytes;
}

void PromptRing::add_computed(int64_t experts, int64_t rows, double seconds) {
  const std::lock_guard lock(mutex_);
  price_.add_misses(rows, seconds);
  stats_.computed += experts;
}

PromptStats PromptRing::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

std::string PromptRing::take_failure() {
  const std::lock_guard lock(mutex_);
  return std::exchange(failure_, {});
}

}  // namespace hotset
