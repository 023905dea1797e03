// A file that appears under its name only when it is complete: written beside it as NAME.part,
// synced, renamed. What is not committed leaves nothing behind, unless it is kept; what a killed
// process left is emptied or read by the next one that writes the same file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace hotset {

class OutputFile {
 public:
  enum class Remains { kEmptied, kRead };  // of a writer before this one

  // Throws Error with path and reason, as all here do; also if it is being written, or no file.
  explicit OutputFile(std::string path, Remains remains = Remains::kEmptied);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;

  const std::string& path() const { return path_; }
  // Thread-safe where the ranges do not overlap.
  void write(uint64_t offset, std::span<const std::byte> bytes);
  void commit();

  // What was written, or remains; false where the file is shorter. Thread-safe as writing is.
  bool read(uint64_t offset, std::span<std::byte> out) const;
  void empty();
  void keep() { is_kept_ = true; }  // the unfinished file, for the next writer

 private:
  [[noreturn]] void fail(const char* what) const;

  const std::string path_, temporary_;
  int fd_ = -1;
  bool is_kept_ = false;
};

}  // namespace hotset
