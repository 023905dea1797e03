// A job is a counter of unclaimed indices that all threads take from, so a thread that wakes late
// or never costs the others nothing. All waiting is a short spin, then a futex: a busy neighbour on
// the same cores gets the time that we would only poll in.
#include "kernels/thread_pool.h"

#include <chrono>
#include <exception>
#include <limits>
#include <utility>

#include "kernels/check.h"

namespace hotset {

// Ordering. The caller writes the plain fields, then stores `unclaimed` (release). A claim is a
// fetch_sub of `unclaimed` (acquire) that found it positive: whoever holds one may read the fields,
// and they stay as they are, because run_erased() cannot return before the claimed index is
// finished. A worker that is late for a job and finds another one's indices simply helps with that
// one. `finished` is added to (release) only when nothing is left to claim, so once the caller
// reads `finished == count` (acquire) it sees all that the bodies wrote.
struct ThreadPool::Job {
  Call call = nullptr;
  void* body = nullptr;
  int64_t count = 0;
  std::exception_ptr error;  // written by whoever sets has_error

  alignas(64) std::atomic<int64_t> unclaimed{0};  // may fall below 0 by one per thread
  alignas(64) std::atomic<int> finished{0};
  std::atomic<bool> has_error{false};
  alignas(64) std::atomic<int> epoch{0};  // counts jobs: what idle workers wait on
  std::atomic<bool> stop{false};
};

namespace {

// Round to nearest, all exceptions masked, subnormals kept: the numerics rule of docs/numerics.md.
// A library in the process may have set it otherwise.
constexpr unsigned kDefaultMxcsr = 0x1f80;

class DefaultFloatMode {
 public:
  DefaultFloatMode() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(kDefaultMxcsr); }
  ~DefaultFloatMode() { __builtin_ia32_ldmxcsr(before_); }
  DefaultFloatMode(const DefaultFloatMode&) = delete;

 private:
  const unsigned before_;
};

// Polls until done() or for about spin_us.
template <class Done>
bool spin(int spin_us, Done&& done) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::microseconds(spin_us);
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      __builtin_ia32_pause();
    }
  } while (Clock::now() < end);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int threads, Pinning pinning, int spin_us)
    : job_(std::make_unique<Job>()), pinning_(pinning), spin_us_(spin_us), caller_pin_(pin(0)) {
  HOTSET_CHECK(threads >= 1, "the caller is a thread of its pool");
  workers_.reserve(threads - 1);
  for (int thread = 1; thread < threads; ++thread) {
    workers_.emplace_back([this, thread] { work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  job_->stop.store(true, std::memory_order_release);
  job_->epoch.fetch_add(1, std::memory_order_release);
  job_->epoch.notify_all();
}

std::optional<CorePin> ThreadPool::pin(int thread) const {
  if (pinning_ == Pinning::kNone) return {};
  return std::optional<CorePin>(std::in_place, thread);
}

void ThreadPool::run_erased(int64_t count, Call call, void* body) {
  HOTSET_CHECK(count <= std::numeric_limits<int>::max(), "indices of a job are counted in an int");
  if (count <= 0) return;
  const DefaultFloatMode mode;
  Job& job = *job_;
  job.call = call;
  job.body = body;
  job.count = count;
  job.finished.store(0, std::memory_order_relaxed);
  job.unclaimed.store(count, std::memory_order_release);
  if (count > 1 && !workers_.empty()) {
    job.epoch.fetch_add(1, std::memory_order_release);
    job.epoch.notify_all();
  }
  drain(0);

  const int all = static_cast<int>(count);
  const auto is_done = [&] { return job.finished.load(std::memory_order_acquire) == all; };
  if (!spin(spin_us_, is_done)) {
    for (int seen = job.finished.load(std::memory_order_acquire); seen != all;
         seen = job.finished.load(std::memory_order_acquire)) {
      job.finished.wait(seen, std::memory_order_acquire);
    }
  }
  if (job.has_error.exchange(false, std::memory_order_relaxed)) {
    std::rethrow_exception(std::exchange(job.error, nullptr));
  }
}

void ThreadPool::drain(int thread) {
  Job& job = *job_;
  int done = 0;
  // The load keeps late workers from writing to a counter that others are using.
  while (job.unclaimed.load(std::memory_order_relaxed) > 0) {
    const int64_t left = job.unclaimed.fetch_sub(1, std::memory_order_acquire);
    if (left <= 0) break;
    try {
      job.call(job.body, job.count - left, thread);
    } catch (...) {
      if (!job.has_error.exchange(true, std::memory_order_relaxed)) {
        job.error = std::current_exception();
      }
    }
    ++done;
  }
  if (done == 0) return;
  // A claimed index that is not yet added to `finished` keeps the job alive, so `done` is all of
  // one job, and job.count may be read until the addition.
  const int all = static_cast<int>(job.count);
  if (job.finished.fetch_add(done, std::memory_order_acq_rel) + done == all) {
    job.finished.notify_one();
  }
}

void ThreadPool::work(int thread) {
  const std::optional<CorePin> own_core = pin(thread);
  __builtin_ia32_ldmxcsr(kDefaultMxcsr);
  Job& job = *job_;
  int seen = 0;
  while (true) {
    const auto is_new = [&] { return job.epoch.load(std::memory_order_acquire) != seen; };
    if (!spin(spin_us_, is_new)) job.epoch.wait(seen, std::memory_order_acquire);
    seen = job.epoch.load(std::memory_order_acquire);
    if (job.stop.load(std::memory_order_acquire)) return;
    drain(thread);
  }
}

}  // namespace hotset
