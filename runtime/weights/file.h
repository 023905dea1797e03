// A file read with pread only: no mapping, so a file that shrinks is an Error and not a SIGBUS.
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace hotset {

class File {
 public:
  explicit File(std::string path);  // throws Error with path and reason
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }
  int64_t modified_ns() const { return modified_ns_; }  // since 1970, when it was opened
  // Reads exactly out.size() bytes at `offset`, or throws Error naming path, offset and what was
  // found.
  void read(uint64_t offset, std::span<std::byte> out) const;
  // Throws Error if the file's size or time of change is not what it was: half of the bytes might
  // be those of another model. (A file that was replaced under its name stays what it was for us.)
  void check_unchanged() const;
  bool is_same(int fd) const;  // whether `fd` is open on this very file
  [[noreturn]] void fail_reading(int64_t offset, int error) const;
  [[noreturn]] void fail_cut(int64_t offset) const;
  // A hint to the kernel that this range will be read soon.
  void expect(uint64_t offset, uint64_t bytes) const;

 private:
  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  int64_t modified_ns_ = 0;
};

}  // namespace hotset
