#include "profiler/ring_finder.h"

#include <sys/stat.h>

#include "profiler/ring_reader.h"

namespace hotset {

// The kernel's stamps go forward in steps of some milliseconds. A file that came in the step in
// which the names were read is not told by the stamp, so one that is not yet two seconds old, or
// lies in the future of a clock that was set back, is not relied on.
void RingFinder::look() {
  constexpr int64_t kSettledSeconds = 2;
  struct stat status {};
  Stamp stamp;
  if (lstat(folder_.c_str(), &status) == 0) {
    stamp = {status.st_dev, status.st_ino, status.st_ctim.tv_sec, status.st_ctim.tv_nsec};
  }
  if (is_certain_ && stamp == stamp_) return;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  stamp_ = stamp;
  is_certain_ = now.tv_sec - stamp.seconds >= kSettledSeconds;
  rings_ = find_rings(folder_);
}

}  // namespace hotset
