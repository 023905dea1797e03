// An engine's ranges in Chrome's trace format, for those without Nsight: the file opens in
// Perfetto. Collects while it lives; the engine must outlive it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "profiler/ring_reader.h"

namespace hotset {

class Timeline {
 public:
  // Reads the ring often enough that nothing is overwritten unread. Throws Error.
  explicit Timeline(const std::string& ring_path);

  // Ends the collecting. JSON: complete events ("ph": "X") in microseconds, a track a thread.
  std::string finish();
  uint64_t lost() const { return reader_.lost(); }  // after finish

 private:
  void collect();

  RingReader reader_;
  std::vector<std::vector<Record>> lanes_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;
};

}  // namespace hotset
