// Writes GGUF v3 (the specification is in ggml's docs): keys and a tensor table first, then the
// tensors' bytes in any order and from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/formats/tensor_type.h"
#include "runtime/weights/output_file.h"

namespace hotset {

class GgufWriter {
 public:
  explicit GgufWriter(std::string path) : path_(std::move(path)) {}

  void add_u32(const std::string& key, int64_t value);
  void add_f32(const std::string& key, double value);
  void add_bool(const std::string& key, bool value);
  void add_string(const std::string& key, const std::string& value);
  void add_strings(const std::string& key, const std::vector<std::string>& values);
  void add_i32s(const std::string& key, const std::vector<int32_t>& values);

  // Declares a tensor; dims with the slowest first ([E, N, K]). Returns its number.
  size_t add_tensor(const std::string& name, TensorType type, const std::vector<int64_t>& dims);

  // Creates the file and writes everything that is known; after it only write() and commit().
  void begin();
  void write(size_t tensor, uint64_t offset, std::span<const std::byte> bytes);
  void commit();
  uint64_t file_bytes() const { return data_offset_ + data_bytes_; }

 private:
  void begin_key(const std::string& key, uint32_t type);

  const std::string path_;
  std::string keys_, table_;  // as they will lie in the file
  uint64_t key_count_ = 0;
  struct Extent {
    uint64_t offset = 0, bytes = 0;
  };
  std::vector<Extent> tensors_;  // in the data section
  uint64_t data_offset_ = 0, data_bytes_ = 0;
  std::unique_ptr<OutputFile> file_;
};

}  // namespace hotset
