#include "cache/background_fill.h"

#include <sys/resource.h>

#include <chrono>

namespace hotset {
namespace {

// A filler gets about a tenth of a core that a step's thread wants, too: it must never push decode
// aside.
constexpr int kNice = 10;

}  // namespace

BackgroundFill::BackgroundFill(ExpertCache& cache, int threads) : cache_(cache), running_(threads) {
  threads_.reserve(threads);
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

BackgroundFill::~BackgroundFill() {
  stop_.request_stop();  // to all of them before the first is joined
}

bool BackgroundFill::has_ended() const {
  const std::lock_guard lock(mutex_);
  return running_ == 0;
}

void BackgroundFill::work() {
  // On Linux 0 is the calling thread, not the process. Refused: then they are as nice as the rest.
  setpriority(PRIO_PROCESS, 0, kNice);
  std::exception_ptr error;
  try {
    while (!stop_.stop_requested() && cache_.fill_one()) {
    }
  } catch (...) {
    error = std::current_exception();
    stop_.request_stop();
  }
  const std::lock_guard lock(mutex_);
  if (error && !error_) error_ = error;
  --running_;
  ended_.notify_all();
}

void BackgroundFill::wait(const std::function<void(int64_t, int64_t)>& progress) {
  constexpr auto kPeriod = std::chrono::milliseconds(50);
  std::unique_lock lock(mutex_);
  while (!ended_.wait_for(lock, kPeriod, [&] { return running_ == 0; })) {
    lock.unlock();
    progress(cache_.resident_bytes(), cache_.plan().slot_bytes_total);
    lock.lock();
  }
  if (error_) std::rethrow_exception(error_);
}

}  // namespace hotset
