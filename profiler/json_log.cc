#include "profiler/json_log.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace hotset {

JsonLog::JsonLog(std::string path, int64_t bytes_max)
    : path_(std::move(path)), bytes_max_(bytes_max) {
  open_file();
  if (fd_ < 0) throw Error(path_ + ": cannot be opened: " + std::strerror(errno));
  if (flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    close(fd_);
    throw Error(path_ + ": is being written by another daemon; daemon.log names another file");
  }
}

JsonLog::~JsonLog() {
  if (fd_ >= 0) close(fd_);
}

void JsonLog::open_file() {
  fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
  struct stat status {};
  if (fd_ < 0 || fstat(fd_, &status) != 0) return;
  bytes_ = status.st_size;
  // What a killed daemon left half written ends here.
  char last = '\n';
  const bool has_last =
      S_ISREG(status.st_mode) && bytes_ > 0 && pread(fd_, &last, 1, bytes_ - 1) == 1;
  is_broken_ = has_last && last != '\n';
}

// Where there can be no second file (a folder that is not this user's), the full one begins anew.
bool JsonLog::make_room() {
  struct stat status {};
  if (fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) return true;
  const int full = fd_;
  if (std::rename(path_.c_str(), (path_ + ".1").c_str()) == 0) {
    open_file();
    if (fd_ >= 0) {
      flock(fd_, LOCK_EX | LOCK_NB);
      close(full);
      return true;
    }
    fd_ = full;
  }
  if (ftruncate(fd_, 0) != 0) return false;
  bytes_ = 0;
  is_broken_ = false;
  return true;
}

void JsonLog::append(const std::string& line) {
  const auto size_max = std::ssize(line) + 2;
  const bool is_full = bytes_ > 0 && bytes_ + size_max > bytes_max_ / 2;
  if (size_max > bytes_max_ / 2 || (is_full && !make_room())) {
    ++lost_;
    return;
  }
  const std::string text = (is_broken_ ? "\n" : "") + line + "\n";
  const ssize_t written = write(fd_, text.data(), text.size());
  if (written > 0) bytes_ += written;
  if (written == std::ssize(text)) {
    is_broken_ = false;
  } else {
    is_broken_ = is_broken_ || written > 0;
    ++lost_;
  }
}

}  // namespace hotset
