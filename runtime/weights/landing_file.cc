#include "runtime/weights/landing_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace hotset {

int64_t landing_bytes_of(int64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes + kPageBytes;
}

LandingFile::LandingFile(const File& file, FileReads reads) : file_(file) {
  if (reads == FileReads::kBuffered) return;
  fd_ = ::open(file.path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT);
  if (fd_ >= 0 && !file.is_same(fd_)) {  // the name belongs to another file by now
    ::close(fd_);
    fd_ = -1;
  }
}

LandingFile::~LandingFile() {
  if (fd_ >= 0) ::close(fd_);
}

LandingFile::LandingFile(LandingFile&& other) noexcept
    : file_(other.file_), fd_(std::exchange(other.fd_, -1)) {}

int64_t LandingFile::read(int64_t offset, int64_t bytes, std::byte* landing) const {
  const int64_t lead = offset % kPageBytes;
  int64_t got = 0;
  if (fd_ < 0) {
    file_.read(static_cast<uint64_t>(offset), {landing + lead, static_cast<size_t>(bytes)});
    got = bytes;
  } else {
    // Whole pages; the last one of a file may be cut.
    const int64_t begin = offset - lead, wanted = lead + bytes;
    const int64_t whole = (wanted + kPageBytes - 1) / kPageBytes * kPageBytes;
    while (got < wanted) {
      const ssize_t now = ::pread(fd_, landing + got, static_cast<size_t>(whole - got),
                                  static_cast<off_t>(begin + got));
      if (now < 0 && errno == EINTR) continue;
      if (now < 0) file_.fail_reading(begin + got, errno);
      if (now == 0) file_.fail_cut(begin + got);
      got += now;
      if (got >= wanted) break;
      // Direct reads go on at page boundaries; what is less than a page lies at the file's end.
      if (now < kPageBytes) file_.fail_cut(begin + got);
      got = got / kPageBytes * kPageBytes;
    }
  }
  file_.check_unchanged();
  return got;
}

}  // namespace hotset
