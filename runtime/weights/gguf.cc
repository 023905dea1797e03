// Access to the keys and tensors of a GGUF model, and the rules that bind the parts of a split one.
// The parsing of one file is in gguf_parse.cc.
#include "runtime/weights/gguf.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "kernels/check.h"
#include "runtime/weights/messages.h"

namespace hotset {
namespace {

struct SplitName {
  std::string prefix;  // path before "-00001-of-00004.gguf"
  int64_t count = 0;
};

std::optional<SplitName> split_name(const std::string& path) {
  constexpr std::string_view kShape = "-00000-of-00000.gguf";  // 0 stands for any digit
  if (path.size() <= kShape.size()) return std::nullopt;
  const std::string tail = path.substr(path.size() - kShape.size());
  for (size_t i = 0; i < kShape.size(); ++i) {
    const bool fits = kShape[i] == '0' ? tail[i] >= '0' && tail[i] <= '9' : tail[i] == kShape[i];
    if (!fits) return std::nullopt;
  }
  return SplitName{path.substr(0, path.size() - kShape.size()), std::stoll(tail.substr(10, 5))};
}

std::string part_path(const std::string& prefix, int64_t number, int64_t count) {
  char tail[32];
  std::snprintf(tail, sizeof tail, "-%05d-of-%05d.gguf", static_cast<int>(number),
                static_cast<int>(count));
  return prefix + tail;
}

std::optional<int64_t> as_integer(const GgufFile::Value& value) {
  if (const auto* i = std::get_if<int64_t>(&value)) return *i;
  const auto* u = std::get_if<uint64_t>(&value);
  if (u != nullptr && *u <= static_cast<uint64_t>(INT64_MAX)) return static_cast<int64_t>(*u);
  return std::nullopt;
}

std::string type_name(const GgufFile::Value& value) {
  constexpr const char* kScalars[] = {"an integer", "an integer", "a float",
                                      "a boolean",  "a string",   "an array"};
  if (const auto* u = std::get_if<uint64_t>(&value); u != nullptr && !as_integer(value)) {
    return "the integer " + std::to_string(*u);
  }
  return kScalars[value.index()];
}

// Every entry of a per-layer array as one scalar, if they are all equal.
std::optional<GgufFile::Value> as_scalar(const GgufFile::Value& value) {
  const auto* array = std::get_if<GgufFile::Array>(&value);
  if (array == nullptr) return value;
  return std::visit(
      [](const auto& entries) -> std::optional<GgufFile::Value> {
        if (entries.empty()) return std::nullopt;
        for (const auto& entry : entries) {
          if (entry != entries.front()) return std::nullopt;
        }
        return GgufFile::Value(entries.front());
      },
      *array);
}

void check_split_key(const std::map<std::string, GgufFile::Value>& keys, const std::string& file,
                     const std::string& key, int64_t expected, const char* why) {
  const auto at = keys.find(key);
  if (at == keys.end()) {
    throw Error(file + ": " + key + ": missing, expected " + std::to_string(expected) + " (" + why +
                ")");
  }
  const auto found = as_integer(at->second);
  if (found != expected) {
    throw Error(file + ": " + key + ": found " +
                (found ? std::to_string(*found) : type_name(at->second)) + ", expected " +
                std::to_string(expected) + " (" + why + ")");
  }
}

}  // namespace

int64_t TensorInfo::elements() const {
  int64_t product = 1;
  for (const int64_t dim : dims) product *= dim;
  return product;
}

GgufFile::GgufFile(const std::string& path) : path_(path) {
  const auto name = split_name(path);
  if (name && name->count > 1) {
    open_split(name->prefix, name->count);
    take_samples(files_, metadata_bytes_);
    return;
  }
  keys_ = parse_part(path);
  const auto count = find_integer("split.count");
  if (count && *count > 1) {
    throw Error(path + ": split.count: found " + std::to_string(*count) +
                ", but the file's name is not that of a part: name the parts "
                "NAME-00001-of-" +
                part_path("", 1, *count).substr(10, 5) + ".gguf and so on");
  }
  take_samples(files_, metadata_bytes_);
}

void GgufFile::open_split(const std::string& prefix, int64_t count) {
  std::vector<std::map<std::string, Value>> keys;
  for (int64_t part = 0; part < count; ++part) {
    const std::string path = part_path(prefix, part + 1, count);
    if (!std::filesystem::exists(path)) {
      throw Error(path + ": missing; " + path_ + " is one of " + std::to_string(count) +
                  " parts, and all must lie in its folder");
    }
    keys.push_back(parse_part(path));
    check_split_key(keys.back(), path, "split.count", count, "from the file's name");
    check_split_key(keys.back(), path, "split.no", part, "from the file's name");
  }
  for (int64_t part = 0; part < count; ++part) {
    check_split_key(keys[part], part_path(prefix, part + 1, count), "split.tensors.count",
                    static_cast<int64_t>(tensors_.size()), "the tensors of all parts together");
  }
  keys_ = std::move(keys.front());  // the first part carries all metadata
}

std::vector<const File*> GgufFile::files() const {
  std::vector<const File*> files;
  for (const auto& file : files_) files.push_back(file.get());
  return files;
}

const TensorInfo* GgufFile::find(const std::string& name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

void GgufFile::wrong_type(const std::string& key, const char* expected) const {
  const auto at = keys_.find(key);
  throw Error(path_ + ": " + key + ": " +
              (at == keys_.end() ? "missing" : "found " + type_name(at->second)) + ", expected " +
              expected);
}

std::optional<int64_t> GgufFile::find_integer(const std::string& key) const {
  const auto at = keys_.find(key);
  if (at == keys_.end()) return std::nullopt;
  const auto scalar = as_scalar(at->second);
  const auto value = scalar ? as_integer(*scalar) : std::nullopt;
  if (!value) wrong_type(key, "an integer (or an array of equal ones)");
  return value;
}

std::optional<double> GgufFile::find_number(const std::string& key) const {
  const auto at = keys_.find(key);
  if (at == keys_.end()) return std::nullopt;
  const auto scalar = as_scalar(at->second);
  if (scalar) {
    if (const auto* d = std::get_if<double>(&*scalar)) return *d;
    if (const auto i = as_integer(*scalar)) return static_cast<double>(*i);
  }
  wrong_type(key, "a number");
}

int64_t GgufFile::integer(const std::string& key) const {
  const auto value = find_integer(key);
  if (!value) wrong_type(key, "an integer");
  return *value;
}

double GgufFile::number(const std::string& key) const {
  const auto value = find_number(key);
  if (!value) wrong_type(key, "a number");
  return *value;
}

bool GgufFile::boolean(const std::string& key) const {
  const auto at = keys_.find(key);
  const auto* value = at == keys_.end() ? nullptr : std::get_if<bool>(&at->second);
  if (value == nullptr) wrong_type(key, "a boolean");
  return *value;
}

const std::string& GgufFile::string(const std::string& key) const {
  const auto at = keys_.find(key);
  const auto* value = at == keys_.end() ? nullptr : std::get_if<std::string>(&at->second);
  if (value == nullptr) wrong_type(key, "a string");
  return *value;
}

const std::vector<std::string>& GgufFile::strings(const std::string& key) const {
  const auto at = keys_.find(key);
  const auto* array = at == keys_.end() ? nullptr : std::get_if<Array>(&at->second);
  const auto* value = array == nullptr ? nullptr : std::get_if<std::vector<std::string>>(array);
  if (value == nullptr) wrong_type(key, "an array of strings");
  return *value;
}

std::vector<int64_t> GgufFile::integers(const std::string& key) const {
  const auto at = keys_.find(key);
  const auto* array = at == keys_.end() ? nullptr : std::get_if<Array>(&at->second);
  if (array != nullptr) {
    if (const auto* i = std::get_if<std::vector<int64_t>>(array)) return *i;
    if (const auto* u = std::get_if<std::vector<uint64_t>>(array)) {
      const auto too_large = [](uint64_t v) { return v > static_cast<uint64_t>(INT64_MAX); };
      if (std::none_of(u->begin(), u->end(), too_large)) return {u->begin(), u->end()};
    }
  }
  wrong_type(key, "an array of integers");
}

}  // namespace hotset
