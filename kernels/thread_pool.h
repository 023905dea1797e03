// The persistent threads that compute steps. The calling thread takes part, so a pool of size 1 has
// no other thread. Workers spin briefly after a job, then park; an idle pool uses no CPU.
// Thread-compatible: one caller at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "kernels/cpu_cores.h"

namespace hotset {

enum class Pinning { kNone, kCores };

class ThreadPool {
 public:
  // threads >= 1. kCores: thread i keeps to physical core i, counted round where there are fewer
  // cores than threads; so does the thread that makes the pool (thread 0), until the pool ends.
  // spin_us: how long a worker polls for the next job before it parks.
  explicit ThreadPool(int threads, Pinning pinning = Pinning::kNone, int spin_us = 50);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(i, thread) for every i in [0, count), each exactly once, on any thread (thread in
  // [0, size)). Returns when all are done. The first exception thrown by a body is rethrown here
  // after the others have ended. Allocates nothing.
  template <class Body>
  void run(int64_t count, Body&& body) {
    run_erased(
        count,
        [](void* b, int64_t i, int thread) {
          (*static_cast<std::remove_reference_t<Body>*>(b))(i, thread);
        },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Call = void (*)(void*, int64_t, int);
  void run_erased(int64_t count, Call call, void* body);
  void work(int thread);
  void drain(int thread);
  std::optional<CorePin> pin(int thread) const;

  struct Job;
  std::unique_ptr<Job> job_;
  const Pinning pinning_;
  const int spin_us_;
  const std::optional<CorePin> caller_pin_;
  std::vector<std::jthread> workers_;
};

}  // namespace hotset
