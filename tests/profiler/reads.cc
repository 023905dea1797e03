#include "tests/profiler/reads.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

namespace hotset::test {
namespace {

thread_local const ReadsWatched* watched = nullptr;

}  // namespace

ReadsWatched::ReadsWatched(Before b, After a) : before(std::move(b)), after(std::move(a)) {
  watched = this;
}
ReadsWatched::~ReadsWatched() {
  watched = nullptr;
}

}  // namespace hotset::test

// In the C library's place, for all of this executable.
extern "C" ssize_t pread(int fd, void* to, size_t bytes, off_t at) {
  // What the test does may read, too: nobody watches that.
  const auto* now = std::exchange(hotset::test::watched, nullptr);
  if (now != nullptr) now->before(at);
  const ssize_t got = syscall(SYS_pread64, fd, to, bytes, at);
  if (now != nullptr) now->after(at, static_cast<std::byte*>(to), bytes);
  hotset::test::watched = now;
  return got;
}
