// The thread that fills a card's slots behind the steps: an expert's bytes from the host's cache
// into pinned staging, from there to the slot on a stream of low priority, and the word to the tier
// when the copy has completed, which is asked for and never waited for by a step.
//
// It may write the slot as soon as the tier hands the copy out (cache/card_tier.h). The staging
// buffer is written again only after its last copy has completed.
//
// One thread, and not the stages on TBB that fill the host's cache (background_fill.h): whom it
// copies is resident there, so read and packed already, and what is left is a copy within memory,
// which two stagings let run beside the one over the link. A fill of somebody who is not there yet
// is tried again when those stages have brought him. The order is the tier's, and it is a few
// experts a step; more threads would take from the CPU's misses the memory that they are read from.
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
  // Where a copy goes on the card: its slot, and the word that is to say whose generation lies
  // there (CardSlotCheck::held), or null.
  struct Target {
    std::byte* slot;
    uint32_t* held;
  };
  using TargetOf = std::function<Target(const CardCopy&)>;
  CardCopier(CardRuntime& card, CardTier& tier, ExpertCache& cache, Recorder& recorder,
             TargetOf target_of);
  ~CardCopier();  // ends within one copy
  // Once, what has ended the copying, if anything did: steps go on without.
  std::string take_failure();
  int64_t pinned_bytes() const;

 private:
  struct Staging {
    CardMemory memory;  // the expert's bytes, and behind the largest one's the generation
    CardEvent copied;
    CardCopy copy;
    bool is_busy = false;
    int64_t begin_ns = 0;
  };
  void work(const std::stop_token& stop);
  void start(const CardCopy& copy, Staging& staging);
  void put_on_stream(const Staging& staging, int64_t bytes);
  bool settle();  // whether one has completed
  void end_burst();
  void give_up(const char* why);

  CardRuntime& card_;
  CardTier& tier_;
  ExpertCache& cache_;
  Recorder& recorder_;
  const TargetOf target_of_;
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
