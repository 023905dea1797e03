// How fast this machine reads memory right now: the yardstick of decode, measured in the same run.
#pragma once

#include <span>

#include "kernels/memory.h"
#include "kernels/thread_pool.h"

namespace hotset {

// GB/s at which all threads sum up `memory`, each slices of its own. Where memory lies matters more
// than anything else (a virtual machine's pages may be on another node of the host, at half the
// speed), so measure the memory that the work to be compared reads.
double read_gbps(ThreadPool& pool, std::span<const std::byte> memory);

// A buffer to be read, for what has no memory of its own.
class ReadBandwidth {
 public:
  // 1 GiB tells best; where memory is short, a part of it has to do.
  explicit ReadBandwidth(int threads, Pinning pinning = Pinning::kNone, Pages pages = Pages::kHuge,
                         int64_t bytes = 1 << 30);
  double measure_gbps();  // GB/s of one pass

 private:
  ThreadPool pool_;
  Memory buffer_;
};

}  // namespace hotset
