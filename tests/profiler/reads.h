// Lets a test do something at the very moment at which a reader reads a ring: what another process
// would do only once in a long while.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>

namespace hotset::test {

// While it lives, `before` is called ahead of each pread() of this thread, and `after` with what
// was read. One at a time.
class ReadsWatched {
 public:
  using Before = std::function<void(off_t at)>;
  using After = std::function<void(off_t at, std::byte* read, size_t bytes)>;
  ReadsWatched(Before before, After after);
  ~ReadsWatched();
  ReadsWatched(const ReadsWatched&) = delete;

  const Before before;
  const After after;
};

}  // namespace hotset::test
