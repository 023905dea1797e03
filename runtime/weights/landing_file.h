// A file read into landings: buffers aligned to pages, in which a byte lies as far from a page's
// start as in the file. So the disk can write into them past the page cache (O_DIRECT), which a
// file that does not fit in memory would only churn.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/weights/file.h"

namespace hotset {

inline constexpr int64_t kPageBytes = 4096;

enum class FileReads { kBuffered, kDirect };

// Most bytes that a landing of `bytes` bytes from anywhere in a file takes.
int64_t landing_bytes_of(int64_t bytes);

class LandingFile {
 public:
  // `file` must outlive this. Where the file system has no direct reads, they are buffered.
  LandingFile(const File& file, FileReads reads);
  ~LandingFile();
  LandingFile(LandingFile&& other) noexcept;
  LandingFile& operator=(LandingFile&&) = delete;

  const File& file() const { return file_; }
  // Reads `bytes` bytes at `offset`; they begin at landing + offset % kPageBytes. Returns the bytes
  // that came from the file. Throws Error naming path and offset, also if the file has been changed
  // since it was opened. Thread-safe.
  int64_t read(int64_t offset, int64_t bytes, std::byte* landing) const;

 private:
  const File& file_;
  int fd_ = -1;  // for direct reads
};

}  // namespace hotset
