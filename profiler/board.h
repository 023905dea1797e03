// What the daemon shows at this moment, for threads that serve it. Thread-safe.
#pragma once

#include <mutex>
#include <string>
#include <utility>

namespace hotset {

class Board {
 public:
  struct Content {
    std::string metrics;  // Prometheus text format
    std::string state;    // JSON: what the page draws
  };
  void show(Content content) {
    const std::lock_guard lock(mutex_);
    content_ = std::move(content);
  }
  Content content() const {
    const std::lock_guard lock(mutex_);
    return content_;
  }

 private:
  mutable std::mutex mutex_;
  Content content_;
};

}  // namespace hotset
