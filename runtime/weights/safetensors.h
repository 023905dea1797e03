// A Hugging Face folder's weights: one model.safetensors, or the shards that
// model.safetensors.index.json lists. Checks headers (size, JSON, depth, UTF-8, duplicates,
// offsets, overlap, shapes against bytes); reads no weights.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/weights/gguf.h"

namespace hotset {

// A tensor of any dtype that is known.
struct StoredTensor {
  TensorInfo info;         // its type is meant only where the dtype is a float type that we read
  std::string_view dtype;  // as the file says it: "I32"
};

class SafetensorsFolder {
 public:
  explicit SafetensorsFolder(const std::string& folder);

  const std::string& folder() const { return folder_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // of readable float types
  // Readable float types only: bf16, f16, f32.
  const TensorInfo* find(const std::string& name) const;
  // As find, but throws Error: the tensor is missing, or its dtype is not a float type.
  const TensorInfo& need(const std::string& name) const;
  // Of any type; valid as long as the folder.
  const StoredTensor* find_stored(const std::string& name) const;
  std::vector<const StoredTensor*> others() const;  // those that are of no readable float type
  std::vector<const File*> files() const;           // all shards

 private:
  void parse_file(const std::string& name);
  void open_shards(const std::string& index);

  std::string folder_;
  std::vector<std::unique_ptr<File>> files_;
  std::vector<uint64_t> metadata_bytes_;  // of each file: its header
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;  // of tensors_
  std::map<std::string, StoredTensor, std::less<>> stored_;
};

}  // namespace hotset
