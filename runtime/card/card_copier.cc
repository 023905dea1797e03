#include "runtime/card/card_copier.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "cache/step_clock.h"

namespace hotset {

namespace {

constexpr size_t kStagings = 2;  // one is packed while the other one is copied
constexpr auto kAskAgain = std::chrono::microseconds(20);
constexpr std::chrono::nanoseconds kRetryMin = std::chrono::milliseconds(10),
                                   kRetryMax = std::chrono::seconds(1);

int64_t now_ns() {
  return static_cast<int64_t>(monotonic_ns());
}

}  // namespace

CardCopier::CardCopier(CardRuntime& card, CardTier& tier, ExpertCache& cache, Recorder& recorder,
                       TargetOf target_of)
    : card_(card),
      tier_(tier),
      cache_(cache),
      recorder_(recorder),
      target_of_(std::move(target_of)),
      stream_(card.open_stream(StreamPriority::kLow)),
      retry_(kRetryMin) {
  int64_t bytes = 0;
  for (const SlotPlan::Class& c : tier.plan().classes) bytes = std::max(bytes, c.slot_bytes);
  for (size_t i = 0; i < kStagings; ++i) {
    Staging staging;
    staging.memory = CardMemory(card, CardMemory::Place::kPinned,
                                bytes + static_cast<int64_t>(sizeof(CardCopy::generation)),
                                "staging for copies");
    staging.copied = card.open_event();
    stagings_.push_back(std::move(staging));
  }
  thread_ = std::jthread([this](const std::stop_token& stop) {
    try {
      work(stop);
    } catch (const Error& error) {
      give_up(error.what());
    }
  });
}

// Nobody waits for a copy that will not come.
void CardCopier::give_up(const char* why) {
  {
    const std::lock_guard lock(mutex_);
    failure_ = why;
  }
  for (const Staging& staging : stagings_) {
    if (staging.is_busy) tier_.abandoned(staging.copy);
  }
}

CardCopier::~CardCopier() {
  thread_ = {};
  card_.close_stream(stream_);  // waits for what is under way
  for (const Staging& staging : stagings_) card_.close_event(staging.copied);
}

std::string CardCopier::take_failure() {
  const std::lock_guard lock(mutex_);
  return std::exchange(failure_, {});
}

int64_t CardCopier::pinned_bytes() const {
  int64_t bytes = 0;
  for (const Staging& staging : stagings_) bytes += staging.memory.bytes();
  return bytes;
}

void CardCopier::work(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const auto idle = std::find_if(stagings_.begin(), stagings_.end(),
                                   [](const Staging& s) { return !s.is_busy; });
    const bool is_all_idle = std::none_of(stagings_.begin(), stagings_.end(),
                                          [](const Staging& s) { return s.is_busy; });
    if (is_all_idle) {
      end_burst();
      if (const auto copy = tier_.next_copy(stop, retry_)) {
        start(*copy, *idle);
      } else {
        retry_ = std::min(2 * retry_, kRetryMax);
      }
      continue;
    }
    if (settle()) continue;
    const auto copy = idle == stagings_.end() ? std::nullopt : tier_.take_copy();
    if (copy) {
      start(*copy, *idle);
    } else {
      std::this_thread::sleep_for(kAskAgain);
    }
  }
}

void CardCopier::end_burst() {
  if (burst_copies_ == 0) return;
  tier_.add_copies(std::exchange(burst_copies_, 0),
                   static_cast<double>(now_ns() - burst_begin_ns_) * 1e-9);
}

void CardCopier::start(const CardCopy& copy, Staging& staging) {
  staging.begin_ns = now_ns();
  if (burst_copies_ == 0) burst_begin_ns_ = staging.begin_ns;
  const std::byte* const resident = cache_.hold_resident(copy.id);
  if (resident == nullptr) return tier_.abandoned(copy);
  const int64_t bytes = tier_.slot_bytes(tier_.class_of(copy.id.layer));
  const auto range = recorder_.range(RangeName::kCopy, copy.id.layer, 1, bytes);
  std::memcpy(staging.memory.data(), resident, static_cast<size_t>(bytes));
  cache_.release_resident(copy.id);
  staging.copy = copy;
  staging.is_busy = true;
  ++burst_copies_;
  put_on_stream(staging, bytes);
  card_.record(staging.copied, stream_);
}

void CardCopier::put_on_stream(const Staging& staging, int64_t bytes) {
  constexpr auto kWord = static_cast<int64_t>(sizeof(CardCopy::generation));
  const Target to = target_of_(staging.copy);
  static_assert(kCardBeingWritten == 0xffffffffu);
  if (to.held != nullptr) card_.fill(stream_, to.held, 0xFF, kWord);
  card_.copy(stream_, to.slot, staging.memory.data(), bytes);
  if (to.held == nullptr) return;
  std::byte* const generation = staging.memory.data() + staging.memory.bytes() - kWord;
  std::memcpy(generation, &staging.copy.generation, sizeof(CardCopy::generation));
  card_.copy(stream_, to.held, generation, kWord);
}

bool CardCopier::settle() {
  bool has_settled = false;
  for (Staging& staging : stagings_) {
    if (!staging.is_busy || !card_.has_completed(staging.copied)) continue;
    const int64_t bytes = tier_.slot_bytes(tier_.class_of(staging.copy.id.layer));
    recorder_.copied(staging.copy.is_fill ? TransferCause::kFill : TransferCause::kAdmission,
                     staging.copy.id, bytes, now_ns() - staging.begin_ns);
    retry_ = kRetryMin;
    tier_.copied(staging.copy);
    staging.is_busy = false;
    has_settled = true;
  }
  return has_settled;
}

}  // namespace hotset
