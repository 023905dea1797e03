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
constexpr int64_t kStagings = 2;  // one is written while the other one is copied

}  // namespace

int32_t PromptRing::slots_of(int32_t ring, int32_t experts_per_layer) {
  const int32_t slots = std::min(ring, experts_per_layer);
  return slots < kPart ? slots : slots / kPart * kPart;
}

PromptRing::PromptRing(CardRuntime& card, CardStream steps, ExpertCache& cache, Recorder& recorder,
                       int32_t experts_per_layer, int64_t slot_bytes, const PromptOptions& options)
    : card_(card),
      steps_(steps),
      cache_(cache),
      recorder_(recorder),
      slot_bytes_(slot_bytes),
      part_(std::min({kPart, options.ring, experts_per_layer})),
      parts_(part_ == 0 ? 0 : slots_of(options.ring, experts_per_layer) / part_),
      fixed_break_even_(options.break_even),
      stream_(card) {
  held_.reserve(experts_per_layer);
}

void PromptRing::take_memory() {
  const std::lock_guard lock(mutex_);
  if (parts_ == 0 || memory_.data() != nullptr) return;
  try {
    while (std::ssize(used_) < parts_) used_.emplace_back(card_);
    while (std::ssize(stagings_) < kStagings) stagings_.emplace_back(card_, part_ * slot_bytes_);
    for (Staging& staging : stagings_) staging.holds.reserve(part_);
    memory_ = CardMemory(card_, CardMemory::Place::kCard, int64_t{part_} * parts_ * slot_bytes_,
                         "a ring for prompts");
    failure_.clear();
  } catch (const CardError& error) {
    if (error.is_lost()) throw;
    stagings_.clear();
    failure_ = error.what();
  }
}

int32_t PromptRing::slots() const {
  const std::lock_guard lock(mutex_);
  return has_failed_ || memory_.data() == nullptr ? 0 : part_ * parts_;
}

int64_t PromptRing::pinned_bytes() const {
  return parts_ == 0 ? 0 : kStagings * part_ * slot_bytes_;
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
  for (Staging& staging : stagings_) staging.holds.clear();
}

void PromptRing::start(std::span<const Held> part, Staging& staging, std::byte* to, CardEvent used,
                       int64_t bytes) {
  const auto range = recorder_.range(RangeName::kCopy, part[0].id.layer, std::ssize(part),
                                     std::ssize(part) * bytes);
  staging.begin = Clock::now();
  staging.bytes = bytes;
  std::byte* const staged = staging.memory.data();
  for (size_t i = 0; i < part.size(); ++i) {
    std::memcpy(staged + static_cast<int64_t>(i) * bytes, part[i].bytes,
                static_cast<size_t>(bytes));
    cache_.release_resident(part[i].id);
    ++released_;
    staging.holds.push_back(part[i].id);
  }
  card_.wait(stream_.stream, used);
  for (int64_t i = 0; i < std::ssize(part); ++i) {
    card_.copy(stream_.stream, to + i * slot_bytes_, staged + i * bytes, bytes);
  }
  card_.record(staging.copied.event, stream_.stream);
}

void PromptRing::tell_watchers(Staging& staging) {
  const int64_t ns = (Clock::now() - staging.begin) / std::chrono::nanoseconds(1);
  for (const ExpertId id : staging.holds) {
    recorder_.copied(TransferCause::kPrompt, id, staging.bytes, ns);
  }
  staging.holds.clear();
}

void PromptRing::tell_watchers() {
  for (Staging& staging : stagings_) tell_watchers(staging);
}

// Where the third part finds a staging buffer free the first one's copies have completed, and so on
// behind it: that is what the copies' time is taken from, while the CPU computes beside them.
void PromptRing::run(int64_t bytes, std::span<const PromptPlan::Copied> copied,
                     const Compute& compute) {
  const Clock::time_point begin = Clock::now();
  int64_t completed = 0;
  std::chrono::duration<double> seconds{0};
  try {
    for (size_t first = 0, number = 0; first < copied.size(); ++number) {
      const size_t count = std::min<size_t>(part_, copied.size() - first);
      Staging& staging = stagings_[number % kStagings];
      const CardEvent used = used_[number % parts_].event;
      std::byte* const to = data() + number % parts_ * part_ * slot_bytes_;
      card_.synchronise(staging.copied.event);
      tell_watchers(staging);
      if (number >= kStagings) {
        completed += part_;
        seconds = Clock::now() - begin;
      }
      start(std::span(held_).subspan(first, count), staging, to, used, bytes);
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
  held_.clear();
  released_ = 0;
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
