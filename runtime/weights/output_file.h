// A file that appears under its name only when it is complete: written beside it as NAME.part,
// synced, renamed. What is not committed leaves nothing behind; what a killed process left is
// overwritten by the next one that writes the same file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace hotset {

class OutputFile {
 public:
  // Throws Error with path and reason, as all here do; also if another process is writing the file.
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;

  const std::string& path() const { return path_; }
  // Thread-safe where the ranges do not overlap.
  void write(uint64_t offset, std::span<const std::byte> bytes);
  void commit();

 private:
  [[noreturn]] void fail(const char* what) const;

  const std::string path_, temporary_;
  int fd_ = -1;
};

}  // namespace hotset
