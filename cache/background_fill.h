// Threads that load the experts of a cache one after another behind the steps, until all that it
// wants to fill (ExpertCache::fill_one) are resident. Starting a model is nothing but a cold tier:
// what a step needs before it has come is an ordinary miss and jumps the queue.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

#include "cache/expert_cache.h"

namespace hotset {

class BackgroundFill {
 public:
  // The cache must outlive this.
  BackgroundFill(ExpertCache& cache, int threads);
  ~BackgroundFill();  // ends within one load

  bool has_ended() const;
  // Returns when nothing is left to fill. Calls `progress(bytes done, bytes in all)` now and then,
  // which may throw to stop the waiting (not the filling). The Error that ended the filling is
  // thrown here; the expert is absent, and a step that needs it tries again and reports it, too.
  void wait(const std::function<void(int64_t, int64_t)>& progress);

 private:
  void work();

  ExpertCache& cache_;
  std::stop_source stop_;
  mutable std::mutex mutex_;
  std::condition_variable ended_;
  int running_;
  std::exception_ptr error_;  // the first
  std::vector<std::jthread> threads_;
};

}  // namespace hotset
