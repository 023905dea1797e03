#include "runtime/weights/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "kernels/check.h"

namespace hotset {
namespace {

// Whether `fd` is still what lies under `path`: its last writer may have renamed it since it was
// opened.
bool is_at(int fd, const std::string& path) {
  struct stat open {
  }, named{};
  return fstat(fd, &open) == 0 && stat(path.c_str(), &named) == 0 && open.st_ino == named.st_ino &&
         open.st_dev == named.st_dev;
}

// What a link points to is replaced, and not the link: /dev/stdout is one.
std::string behind_links(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error)) return path;
  const std::filesystem::path target = std::filesystem::canonical(path, error);
  return error ? path : target.string();
}

}  // namespace

OutputFile::OutputFile(std::string path, Remains remains)
    : path_(behind_links(path)), temporary_(path_ + ".part") {
  // A rename would put the file in place of a device (root's /dev/null) or be refused by a folder
  // at the very end of the work.
  struct stat there {};
  if (stat(path_.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) {
    throw Error(path_ + ": is no regular file, expected a new name or a file to replace");
  }
  while (true) {
    const int fd = open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) fail("cannot be created");
    // The lock ends with the process, however that ends. A file system without locks has only the
    // readers' own checks against two writers.
    const bool is_taken = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!is_taken && is_at(fd, temporary_)) {
      fd_ = fd;
      break;
    }
    close(fd);
    if (is_taken) throw Error(path_ + ": is being written by another process");
  }
  if (remains == Remains::kEmptied) empty();
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  if (!is_kept_) unlink(temporary_.c_str());  // while the lock is held
  close(fd_);
}

void OutputFile::write(uint64_t offset, std::span<const std::byte> bytes) {
  const auto begin = static_cast<off64_t>(offset);
  const auto count = static_cast<off64_t>(bytes.size());
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("cannot be written");
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  // The disk begins at once, beside what is packed next, and not when a tenth of the memory is full
  // of it (packing 4.1 GB: 9 % less time in the median of nine pairs). Not for a table's few bytes,
  // whose page the next ones change again. A hint: commit() asks whether all was written.
  constexpr off64_t kWorthStarting = 1 << 18;
  if (count >= kWorthStarting) sync_file_range(fd_, begin, count, SYNC_FILE_RANGE_WRITE);
}

bool OutputFile::read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t count = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("cannot be read");
    if (count == 0) return false;
    out = out.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return true;
}

void OutputFile::empty() {
  if (ftruncate(fd_, 0) != 0) fail("cannot be emptied");
}

void OutputFile::commit() {
  if (fsync(fd_) != 0) fail("cannot be written");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be put in place");
  if (close(std::exchange(fd_, -1)) != 0) fail("cannot be written");
  // The name lasts when the folder has been written, too. Some file systems cannot sync a folder;
  // after a power cut the file may then be missing, which is no worse than not to have written it.
  const std::string folder = std::filesystem::absolute(path_).parent_path();
  if (const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); fd >= 0) {
    fsync(fd);
    close(fd);
  }
}

void OutputFile::fail(const char* what) const {
  throw Error(path_ + ": " + what + ": " + std::strerror(errno));
}

}  // namespace hotset
