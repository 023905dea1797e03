// GGUF v2/v3 (the specification is in ggml's docs), single or split. Parses and checks everything
// that the file says about itself: counts and lengths against the bytes that remain, duplicates,
// overflow, alignment, ranges inside the file and not overlapping. Reads no weights.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kernels/formats/tensor_type.h"
#include "runtime/weights/file.h"

namespace hotset {

// A tensor as it lies in a file. dims are in safetensors order (row-major, slowest first): [E, N,
// K], [N, K] or [N].
struct TensorInfo {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> dims;
  const File* file = nullptr;  // owned by the container
  uint64_t offset = 0;         // in the file
  uint64_t bytes = 0;

  int64_t elements() const;
  int64_t row_length() const { return dims.back(); }
  int64_t rows() const { return elements() / row_length(); }
};

class GgufFile {
 public:
  using Array = std::variant<std::vector<int64_t>, std::vector<uint64_t>, std::vector<double>,
                             std::vector<std::string>>;
  using Value = std::variant<int64_t, uint64_t, double, bool, std::string, Array>;

  // `path` is any part of a split model or the single file; all parts are opened.
  explicit GgufFile(const std::string& path);

  const std::string& path() const { return path_; }  // as given: names the model in messages
  bool has(const std::string& key) const { return keys_.contains(key); }
  const std::map<std::string, Value>& keys() const { return keys_; }

  // Widening accessors: throw Error naming file and key (and found type) if the key is missing or
  // of another kind. A per-layer array is accepted where every entry is equal.
  int64_t integer(const std::string& key) const;
  double number(const std::string& key) const;
  bool boolean(const std::string& key) const;
  const std::string& string(const std::string& key) const;
  const std::vector<std::string>& strings(const std::string& key) const;
  std::vector<int64_t> integers(const std::string& key) const;
  std::optional<int64_t> find_integer(const std::string& key) const;
  std::optional<double> find_number(const std::string& key) const;

  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const TensorInfo* find(const std::string& name) const;
  std::vector<const File*> files() const;  // all parts

 private:
  // Opens one file, appends its tensors and returns its keys.
  std::map<std::string, Value> parse_part(const std::string& path);
  void open_split(const std::string& prefix, int64_t count);
  [[noreturn]] void wrong_type(const std::string& key, const char* expected) const;

  std::string path_;
  std::vector<std::unique_ptr<File>> files_;
  std::vector<uint64_t> metadata_bytes_;  // of each file: all before its tensors
  std::map<std::string, Value> keys_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
};

}  // namespace hotset
