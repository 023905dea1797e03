// Opening and reading of files through pread (see file.h).
#include "runtime/weights/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/check.h"
#include "runtime/weights/checksum.h"

namespace hotset {

namespace {

constexpr uint64_t kPage = 4096, kSampledPages = 256;

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
      metadata_bytes_(other.metadata_bytes_),
      pages_(other.pages_),
      identity_(other.identity_),
      modified_ns_(other.modified_ns_.load()) {}

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

void File::take_samples(uint64_t metadata_bytes, uint64_t pages) {
  metadata_bytes_ = std::min(metadata_bytes, size_);
  pages_ = std::min(pages, (size_ + kPage - 1) / kPage);
  identity_ = sample();
}

// Pages at equal distances, the first and the last among them. All are asked for before the first
// is read, so that a disk reads many at a time.
uint64_t File::sample() const {
  if (pages_ == 0) return 0;
  std::array<std::byte, kPage> page;
  const uint64_t last = (size_ - 1) / kPage;
  const auto at = [&](uint64_t i) { return kPage * (pages_ == 1 ? 0 : i * last / (pages_ - 1)); };
  for (uint64_t i = 0; i < pages_; ++i) expect(at(i), kPage);
  Checksum sum;
  const auto add = [&](uint64_t offset, uint64_t bytes) {
    const std::span<std::byte> piece = std::span(page).first(std::min(kPage, bytes));
    read(offset, piece);
    sum.add(std::span<const std::byte>(piece));
  };
  sum.add(size_);
  for (uint64_t begin = 0; begin < metadata_bytes_; begin += kPage) {
    add(begin, metadata_bytes_ - begin);
  }
  for (uint64_t i = 0; i < pages_; ++i) add(at(i), size_ - at(i));
  return sum.value();
}

void take_samples(std::span<const std::unique_ptr<File>> files,
                  std::span<const uint64_t> metadata_bytes) {
  uint64_t all = 0;
  for (const auto& file : files) all += file->size();
  for (size_t i = 0; i < files.size(); ++i) {
    const double share = static_cast<double>(files[i]->size()) / static_cast<double>(all);
    files[i]->take_samples(metadata_bytes[i],
                           std::max<uint64_t>(1, static_cast<uint64_t>(share * kSampledPages)));
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

// A new time of change alone says nothing (touch, cp -p, a backup that puts times back), so then
// the file is asked what it is, by the measure by which its sidecar and its scores know it. What
// writes another model over it changes the header or one of the pages; a few bytes put elsewhere
// are found by no rule that does not read all of the file, and are not what happens by accident.
// While a file is being written each read finds a new time and samples again, until the writing has
// come to a page that is sampled: slow, but only then.
void File::check_unchanged() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail_reading(0, errno);
  if (static_cast<uint64_t>(status.st_size) == size_) {
    const int64_t modified = modified_of(status);
    if (modified == modified_ns_.load(std::memory_order_relaxed)) return;
    if (sample() == identity_) {
      modified_ns_.store(modified, std::memory_order_relaxed);
      return;
    }
  }
  throw Error(
      path_ + ": was changed while in use: found " + std::to_string(status.st_size) +
      " bytes, expected the " + std::to_string(size_) +
      " bytes that were there when it was opened, with the same contents. Start again with the "
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
