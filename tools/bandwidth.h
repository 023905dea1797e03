// How fast this machine reads memory right now: the yardstick of decode, measured in the same run.
#pragma once

#include "kernels/memory.h"
#include "kernels/thread_pool.h"

namespace hotset {

// All threads sum up one buffer of 1 GiB, each its own part.
class ReadBandwidth {
 public:
  explicit ReadBandwidth(int threads, Pinning pinning = Pinning::kNone, Pages pages = Pages::kHuge);
  double measure_gbps();  // GB/s of one pass

 private:
  ThreadPool pool_;
  Memory buffer_;
};

}  // namespace hotset
