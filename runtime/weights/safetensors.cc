// Parsing of safetensors headers and of the shard index (see safetensors.h).
#include "runtime/weights/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "kernels/check.h"
#include "runtime/weights/json.h"
#include "runtime/weights/messages.h"

namespace hotset {
namespace {

constexpr uint64_t kMaxHeaderBytes = kMaxJsonBytes;
constexpr size_t kMaxRank = 8;
constexpr size_t kMaxShards = 10'000;

struct Dtype {
  std::string_view name;
  uint64_t bits;
  std::optional<TensorType> type;  // the float types that we read
};

constexpr Dtype kDtypes[] = {
    {"F32", 32, TensorType::kF32},
    {"F16", 16, TensorType::kF16},
    {"BF16", 16, TensorType::kBF16},
    {"F64", 64, {}},
    {"I64", 64, {}},
    {"I32", 32, {}},
    {"I16", 16, {}},
    {"I8", 8, {}},
    {"U64", 64, {}},
    {"U32", 32, {}},
    {"U16", 16, {}},
    {"U8", 8, {}},
    {"BOOL", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"F4", 4, {}},
    {"C64", 64, {}},
};

struct Entry {  // one tensor of a header, with the file it lies in
  TensorInfo info;
  const Dtype* dtype = nullptr;
};

// Numbers of a header are refused unless they are non-negative integers.
std::optional<std::vector<int64_t>> counts(const nlohmann::json* list, size_t max_size) {
  if (list == nullptr || !list->is_array() || list->size() > max_size) return std::nullopt;
  std::vector<int64_t> out;
  for (const auto& value : *list) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) return std::nullopt;
    out.push_back(value.get<int64_t>());
  }
  return out;
}

Entry read_entry(const std::string& name, const nlohmann::json& value, const std::string& path,
                 uint64_t data_at, uint64_t data_size) {
  const auto fail = [&](const std::string& what) {
    throw Error(path + ": tensor " + printable(name) + ": " + what);
  };
  const JsonObject object(value, path + ": tensor " + printable(name));
  const std::string dtype = object.find_string("dtype").value_or("");
  Entry entry;
  for (const Dtype& known : kDtypes) {
    if (known.name == dtype) entry.dtype = &known;
  }
  if (entry.dtype == nullptr) fail("dtype \"" + printable(dtype) + "\" is unknown");

  const auto shape = counts(object.find("shape"), kMaxRank);
  if (!shape) {
    fail("shape is not a list of at most " + std::to_string(kMaxRank) + " non-negative integers");
  }
  uint64_t elements = 1;
  for (const int64_t dim : *shape) {
    // Half of the range, so that the size in bits cannot overflow either.
    if (dim == 0 || __builtin_mul_overflow(elements, static_cast<uint64_t>(dim), &elements) ||
        elements > UINT64_MAX / 128) {
      fail("shape " + shape_text(*shape) + " has a dimension of 0 or too many elements");
    }
  }
  const auto range = counts(object.find("data_offsets"), 2);
  if (!range || range->size() != 2) fail("data_offsets is not a pair of non-negative integers");
  const auto begin = static_cast<uint64_t>((*range)[0]), end = static_cast<uint64_t>((*range)[1]);
  if (begin > end || end > data_size) {
    fail("data_offsets " + shape_text(*range) + " do not lie in the file's " +
         std::to_string(data_size) + " bytes of data: the file is cut or damaged");
  }
  const uint64_t bytes = (elements * entry.dtype->bits + 7) / 8;
  if (end - begin != bytes) {
    fail("shape " + shape_text(*shape) + " of " + dtype + " takes " + std::to_string(bytes) +
         " bytes, but data_offsets give it " + std::to_string(end - begin));
  }
  entry.info.name = name;
  entry.info.type = entry.dtype->type.value_or(TensorType::kF32);
  entry.info.dims = shape->empty() ? std::vector<int64_t>{1} : *shape;  // a scalar is one row
  entry.info.offset = data_at + begin;
  entry.info.bytes = bytes;
  return entry;
}

void check_disjoint(const std::string& path, const std::vector<Entry>& entries) {
  std::vector<const TensorInfo*> order;
  for (const Entry& entry : entries) order.push_back(&entry.info);
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset) {
      throw Error(path + ": tensors " + printable(order[i - 1]->name) + " and " +
                  printable(order[i]->name) + " overlap at byte " +
                  std::to_string(order[i]->offset));
    }
  }
}

uint64_t read_header_size(const File& file) {
  if (file.size() < 8) {
    throw Error(file.path() + ": has " + std::to_string(file.size()) +
                " bytes, too few for a safetensors file");
  }
  uint64_t length = 0;
  file.read(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > file.size() - 8 || length > kMaxHeaderBytes) {
    throw Error(file.path() + ": its header claims " + std::to_string(length) +
                " bytes; the file has " + std::to_string(file.size()) + " bytes, and " +
                std::to_string(kMaxHeaderBytes) + " are allowed");
  }
  return length;
}

}  // namespace

SafetensorsFolder::SafetensorsFolder(const std::string& folder) : folder_(folder) {
  namespace fs = std::filesystem;
  const std::string index = folder + "/model.safetensors.index.json";
  if (fs::exists(folder + "/model.safetensors")) {
    parse_file("model.safetensors");
  } else if (fs::exists(index)) {
    open_shards(index);
  } else {
    throw Error(folder + ": no weights: neither model.safetensors nor " +
                "model.safetensors.index.json is there; other formats (pytorch_model.bin) are not "
                "read");
  }
  take_samples(files_, metadata_bytes_);
}

void SafetensorsFolder::open_shards(const std::string& index) {
  const nlohmann::json document = read_json_file(index);
  const JsonObject root(document, index);
  const nlohmann::json* weight_map = root.find("weight_map");
  if (weight_map == nullptr || !weight_map->is_object()) {
    root.fail("weight_map", "missing or not an object, expected tensor names and their files");
  }
  std::set<std::string> shards;
  for (const auto& [tensor, file] : weight_map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // A name that leads out of the folder is refused: the index may come from anywhere.
    if (!name.ends_with(".safetensors") || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      root.fail("weight_map", printable(tensor) + " is said to lie in \"" + printable(name) +
                                  "\", expected the name of a .safetensors file in the same "
                                  "folder");
    }
    if (shards.insert(name).second && shards.size() > kMaxShards) {
      root.fail("weight_map", "names more than " + std::to_string(kMaxShards) + " files");
    }
  }
  for (const std::string& shard : shards) parse_file(shard);

  for (const auto& [tensor, file] : weight_map->items()) {
    const std::string path = folder_ + "/" + file.get<std::string>();
    const StoredTensor* stored = find_stored(tensor);
    if (stored == nullptr || stored->info.file->path() != path) {
      throw Error(path + ": tensor " + printable(tensor) + " is missing, but " + index +
                  " says that it lies in this file");
    }
  }
}

void SafetensorsFolder::parse_file(const std::string& name) {
  files_.push_back(std::make_unique<File>(folder_ + "/" + name));
  const File& file = *files_.back();
  const uint64_t length = read_header_size(file);
  metadata_bytes_.push_back(8 + length);
  std::string text(length, '\0');
  file.read(8, std::as_writable_bytes(std::span(text)));
  const nlohmann::json header = parse_json(text, file.path());
  if (!header.is_object()) {
    throw Error(file.path() + ": its header is " + header.type_name() + ", expected an object");
  }
  std::vector<Entry> entries;
  for (const auto& [tensor, value] : header.items()) {
    if (tensor == "__metadata__") continue;
    entries.push_back(read_entry(tensor, value, file.path(), 8 + length, file.size() - 8 - length));
  }
  check_disjoint(file.path(), entries);
  for (Entry& entry : entries) {
    entry.info.file = &file;
    if (stored_.contains(entry.info.name)) {
      throw Error(file.path() + ": tensor " + printable(entry.info.name) +
                  " lies in another file of the folder as well");
    }
    if (entry.dtype->type) {
      by_name_.emplace(entry.info.name, tensors_.size());
      tensors_.push_back(entry.info);
    }
    const std::string name_of = entry.info.name;
    stored_[name_of] = {std::move(entry.info), entry.dtype->name};
  }
}

std::vector<const File*> SafetensorsFolder::files() const {
  std::vector<const File*> files;
  for (const auto& file : files_) files.push_back(file.get());
  return files;
}

const TensorInfo* SafetensorsFolder::find(const std::string& name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

const StoredTensor* SafetensorsFolder::find_stored(const std::string& name) const {
  const auto at = stored_.find(name);
  return at == stored_.end() ? nullptr : &at->second;
}

std::vector<const StoredTensor*> SafetensorsFolder::others() const {
  std::vector<const StoredTensor*> others;
  for (const auto& [name, tensor] : stored_) {
    if (!by_name_.contains(name)) others.push_back(&tensor);
  }
  return others;
}

const TensorInfo& SafetensorsFolder::need(const std::string& name) const {
  if (const TensorInfo* tensor = find(name)) return *tensor;
  if (const StoredTensor* other = find_stored(name)) {
    throw Error(other->info.file->path() + ": tensor " + name + " has dtype " +
                std::string(other->dtype) + ", expected BF16, F16 or F32");
  }
  throw Error(folder_ + ": tensor " + name + " is missing from the safetensors files");
}

}  // namespace hotset
