// The thread that fills a card's slots behind the steps: an expert's bytes from the host's cache
// into pinned staging, from there to the slot on a stream of low priority, and the word to the tier
// when the copy has completed, which is asked for and never waited for by a step.
//
// It may write the slot as soon as the tier hands the copy out (cache/card_tier.h). The staging
// buffer is written again only after its last copy has completed.
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "cache/card_tier.h"
#include "cache/expert_cache.h"
#include "cache/recorder.h"
#include "kernels/cuda/card_runtime.h"

namespace hotset {

class CardCopier {
 public:
  // Where a size class's slots lie on the card.
  using SlotAddress = std::function<std::byte*(const CardCopy&)>;
  CardCopier(CardRuntime& card, CardTier& tier, ExpertCache& cache, Recorder& recorder,
             SlotAddress slot_address);
  ~CardCopier();  // ends within one copy
  // Once, what has ended the copying, if anything did: steps go on without.
  std::string take_failure();
  int64_t pinned_bytes() const;

 private:
  struct Staging {
    CardMemory memory;
    CardEvent copied;
    CardCopy copy;
    bool is_busy = false;
    int64_t begin_ns = 0;
  };
  void work(const std::stop_token& stop);
  void start(const CardCopy& copy, Staging& staging);
  bool settle();  // whether one has completed
  void end_burst();
  void give_up(const char* why);

  CardRuntime& card_;
  CardTier& tier_;
  ExpertCache& cache_;
  Recorder& recorder_;
  const SlotAddress slot_address_;
  CardStream stream_;
  std::vector<Staging> stagings_;
  std::chrono::nanoseconds retry_;  // of fills whose experts are not in the host's memory yet
  // Copies one right after another: what each costs is the time of all over their number.
  int64_t burst_begin_ns_ = 0, burst_copies_ = 0;
  std::mutex mutex_;
  std::string failure_;
  std::jthread thread_;
};

}  // namespace hotset
