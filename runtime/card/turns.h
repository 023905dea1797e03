// A mutex that is given to those who wait for it in the order of their coming: steps, one right
// after another, leave nobody waiting for ever. Not recursive; std::unique_lock and lock_guard take
// it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace hotset {

class Turns {
 public:
  void lock() {
    std::unique_lock lock(mutex_);
    const uint64_t mine = next_++;
    changed_.wait(lock, [&] { return serving_ == mine; });
  }
  void unlock() {
    {
      const std::lock_guard lock(mutex_);
      ++serving_;
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t next_ = 0, serving_ = 0;
};

}  // namespace hotset
