// Opening and reading of files through pread (see file.h).
#include "runtime/weights/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace hotset {

namespace {

int64_t modified_of(const struct stat& status) {
  return status.st_mtim.tv_sec * int64_t{1'000'000'000} + status.st_mtim.tv_nsec;
}

}  // namespace

File::File(std::string path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a pipe by mistake must end in the message below, not wait for a writer.
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) throw Error(path_ + ": cannot be opened: " + std::strerror(errno));
  struct stat status {};
  if (::fstat(fd_, &status) != 0) {
    const int error = errno;
    ::close(fd_);
    throw Error(path_ + ": cannot be examined: " + std::strerror(error));
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(fd_);
    throw Error(path_ + ": is not a regular file");
  }
  size_ = static_cast<uint64_t>(status.st_size);
  modified_ns_ = modified_of(status);
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_),
      modified_ns_(other.modified_ns_) {}

void File::read(uint64_t offset, std::span<std::byte> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    throw Error(path_ + ": " + std::to_string(out.size()) + " bytes wanted at offset " +
                std::to_string(offset) + ", but the file has " + std::to_string(size_) + " bytes");
  }
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t got =
        ::pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_reading(static_cast<int64_t>(offset + done), errno);
    if (got == 0) fail_cut(static_cast<int64_t>(offset + done));
    done += static_cast<size_t>(got);
  }
}

void File::fail_reading(int64_t offset, int error) const {
  throw Error(path_ + ": reading at offset " + std::to_string(offset) +
              " failed: " + std::strerror(error));
}

void File::fail_cut(int64_t offset) const {
  throw Error(path_ + ": ends at byte " + std::to_string(offset) + ", but had " +
              std::to_string(size_) + " bytes when it was opened: it was cut while in use");
}

void File::check_unchanged() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail_reading(0, errno);
  if (modified_of(status) == modified_ns_ && static_cast<uint64_t>(status.st_size) == size_) return;
  throw Error(path_ + ": was changed while in use: found " + std::to_string(status.st_size) +
              " bytes, expected the " + std::to_string(size_) +
              " bytes that were there when it was opened, unwritten since. Start again with the "
              "file as it is now");
}

bool File::is_same(int fd) const {
  struct stat mine {
  }, other{};
  return ::fstat(fd_, &mine) == 0 && ::fstat(fd, &other) == 0 && mine.st_dev == other.st_dev &&
         mine.st_ino == other.st_ino;
}

void File::expect(uint64_t offset, uint64_t bytes) const {
  // Only a hint: whatever is wrong with the range is said when it is read.
  ::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

}  // namespace hotset
