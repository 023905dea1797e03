// A file read with pread only: no mapping, so a file that shrinks is an Error and not a SIGBUS.
// Thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
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
  // Reads exactly out.size() bytes at `offset`, or throws Error naming path, offset and what was
  // found.
  void read(uint64_t offset, std::span<std::byte> out) const;
  // From now on the file is known by its first `metadata_bytes` bytes and `pages` pages of 4 KiB
  // spread over all of it: identity() is their checksum and the size's, wherever the file lies and
  // whenever it was written. Before others read.
  void take_samples(uint64_t metadata_bytes, uint64_t pages);
  uint64_t identity() const { return identity_; }
  // Throws Error if it is no longer the file that was opened: half of the bytes might be those of
  // another model. Costs an fstat. (A file that was replaced under its name stays what it was for
  // us; one without samples is known by its size: a sidecar has checksums.)
  void check_unchanged() const;
  bool is_same(int fd) const;  // whether `fd` is open on this very file
  [[noreturn]] void fail_reading(int64_t offset, int error) const;
  [[noreturn]] void fail_cut(int64_t offset) const;
  // A hint to the kernel that this range will be read soon.
  void expect(uint64_t offset, uint64_t bytes) const;

 private:
  uint64_t sample() const;

  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  uint64_t metadata_bytes_ = 0, pages_ = 0;  // that are sampled
  uint64_t identity_ = 0;
  mutable std::atomic<int64_t> modified_ns_ = 0;  // when the samples were last as they are
};

// Takes samples of the files of one model: all of their metadata and 256 pages, shared out by size.
void take_samples(std::span<const std::unique_ptr<File>> files,
                  std::span<const uint64_t> metadata_bytes);

}  // namespace hotset
