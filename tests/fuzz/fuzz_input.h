// What the fuzz targets share: an input as a file, since the readers read files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace hotset {

// A file in memory that holds the input; gone with the object.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  int fd_ = -1;
  std::string path_;
};

// A temporary folder, made once and removed at exit, into which a target writes its inputs.
class FuzzFolder {
 public:
  FuzzFolder();
  ~FuzzFolder();
  const std::string& path() const { return path_; }
  void write(const std::string& name, const uint8_t* data, size_t size) const;
  // Links a file of the sound folder in tests/data/bad/good/hf.
  void add_sound(const std::string& name) const;

 private:
  std::string path_;
};

}  // namespace hotset
