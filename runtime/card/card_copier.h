// The thread that fills a card's slots behind the steps: an expert's bytes from the host's cache
// into pinned staging, from there to the slot on a stream of low priority, and the word to the tier
// when the copy has completed, which is asked for and never waited for by a step.
//
// It may write the slot as soon as the tier hands the copy out (cache/card_tier.h). The staging
// buffer is written again only after its last copy has completed.
#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <mutex>
#include <stop_token>
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
  void check();   // throws what ended the copying, if anything did

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
  void give_up(std::exception_ptr error);

  CardRuntime& card_;
  CardTier& tier_;
  ExpertCache& cache_;
  Recorder& recorder_;
  const SlotAddress slot_address_;
  CardStream stream_;
  std::vector<Staging> stagings_;
  std::chrono::nanoseconds retry_;  // of fills whose experts are not in the host's memory yet
  std::mutex mutex_;
  std::exception_ptr error_;
  std::jthread thread_;
};

}  // namespace hotset
