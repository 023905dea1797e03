// The parse of one GGUF file. Nothing in the file is trusted: each count and length is compared
// with the bytes that remain before anything is allocated for it.
#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "runtime/weights/gguf.h"
#include "runtime/weights/messages.h"

namespace hotset {
namespace {

constexpr uint64_t kMaxNameBytes = 65'535;      // of a key
constexpr uint64_t kMaxTensorNameBytes = 63;    // ggml keeps names in 64 bytes
constexpr uint64_t kMaxStringBytes = 64 << 20;  // the largest known, a chat template, is 20 KB
constexpr uint64_t kMaxArrayLength = 16 << 20;  // the largest known, o200k's merges, has 446,189
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint64_t kMinKeyBytes = 8 + 4 + 1;             // name, type, value
constexpr uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;  // name, dims, one dim, type, offset

enum ValueType : uint32_t {  // as the file stores them
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// Reads a file front to back through a window.
class Cursor {
 public:
  explicit Cursor(const File& file) : file_(file) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return file_.size() - position_; }

  [[noreturn]] void fail(const std::string& what) const { throw Error(file_.path() + ": " + what); }

  // `what` says what is being read, for the message.
  void bytes(void* out, uint64_t count, const std::string& what) {
    if (count > remaining()) {
      fail(what + ": " + std::to_string(count) + " bytes expected at offset " +
           std::to_string(position_) + ", but only " + std::to_string(remaining()) + " remain");
    }
    auto* to = static_cast<std::byte*>(out);
    while (count > 0) {
      if (position_ < window_at_ || position_ >= window_at_ + window_.size()) fill();
      const uint64_t skip = position_ - window_at_;
      const uint64_t now = std::min<uint64_t>(count, window_.size() - skip);
      std::memcpy(to, window_.data() + skip, now);
      to += now;
      position_ += now;
      count -= now;
    }
  }

  template <class T>
  T number(const std::string& what) {
    T value;
    bytes(&value, sizeof value, what);
    return value;
  }

  std::string string(uint64_t max_bytes, const std::string& what) {
    const auto length = number<uint64_t>(what);
    if (length > remaining() || length > max_bytes) {
      fail(what + ": claims to be " + std::to_string(length) + " bytes long; " +
           std::to_string(remaining()) + " bytes remain, and " + std::to_string(max_bytes) +
           " are allowed");
    }
    std::string text(length, '\0');
    bytes(text.data(), length, what);
    return text;
  }

 private:
  void fill() {
    window_.resize(std::min<uint64_t>(remaining(), 256 << 10));
    window_at_ = position_;
    file_.read(window_at_, window_);
  }

  const File& file_;
  uint64_t position_ = 0, window_at_ = 0;
  std::vector<std::byte> window_;
};

std::string key_text(const std::string& key) {
  return "key " + printable(key);
}

template <class Stored, class Held>
GgufFile::Array number_array(Cursor& in, uint64_t length, const std::string& what) {
  std::vector<Held> values(length);
  for (Held& value : values) value = static_cast<Held>(in.number<Stored>(what));
  return values;
}

uint64_t stored_bytes(uint32_t type) {  // of an array's entry, at least
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kF32:
      return 4;
    case kU64:
    case kI64:
    case kF64:
    case kString:
      return 8;
    default:
      return 0;
  }
}

GgufFile::Array read_array(Cursor& in, const std::string& what) {
  const auto type = in.number<uint32_t>(what);
  const auto length = in.number<uint64_t>(what);
  const uint64_t each = stored_bytes(type);
  if (each == 0) {
    in.fail(what + ": array of value type " + std::to_string(type) +
            (type == kArray ? " (an array of arrays)" : "") + ", expected numbers or strings");
  }
  if (length > in.remaining() / each || length > kMaxArrayLength) {
    in.fail(what + ": claims " + std::to_string(length) + " entries; " +
            std::to_string(in.remaining()) + " bytes remain, and " +
            std::to_string(kMaxArrayLength) + " entries are allowed");
  }
  switch (type) {
    case kU8:
    case kBool:
      return number_array<uint8_t, uint64_t>(in, length, what);
    case kI8:
      return number_array<int8_t, int64_t>(in, length, what);
    case kU16:
      return number_array<uint16_t, uint64_t>(in, length, what);
    case kI16:
      return number_array<int16_t, int64_t>(in, length, what);
    case kU32:
      return number_array<uint32_t, uint64_t>(in, length, what);
    case kI32:
      return number_array<int32_t, int64_t>(in, length, what);
    case kU64:
      return number_array<uint64_t, uint64_t>(in, length, what);
    case kI64:
      return number_array<int64_t, int64_t>(in, length, what);
    case kF32:
      return number_array<float, double>(in, length, what);
    case kF64:
      return number_array<double, double>(in, length, what);
    default:
      break;
  }
  std::vector<std::string> values(length);
  for (std::string& value : values) value = in.string(kMaxStringBytes, what);
  return values;
}

GgufFile::Value read_value(Cursor& in, uint32_t type, const std::string& what) {
  switch (type) {
    case kU8:
      return uint64_t{in.number<uint8_t>(what)};
    case kI8:
      return int64_t{in.number<int8_t>(what)};
    case kU16:
      return uint64_t{in.number<uint16_t>(what)};
    case kI16:
      return int64_t{in.number<int16_t>(what)};
    case kU32:
      return uint64_t{in.number<uint32_t>(what)};
    case kI32:
      return int64_t{in.number<int32_t>(what)};
    case kU64:
      return in.number<uint64_t>(what);
    case kI64:
      return in.number<int64_t>(what);
    case kF32:
      return double{in.number<float>(what)};
    case kF64:
      return in.number<double>(what);
    case kBool:
      return in.number<uint8_t>(what) != 0;
    case kString:
      return in.string(kMaxStringBytes, what);
    case kArray:
      return read_array(in, what);
    default:
      in.fail(what + ": unknown value type " + std::to_string(type) + ", expected 0 to 12");
  }
}

struct Counts {
  uint64_t tensors = 0, keys = 0;
};

Counts read_header(Cursor& in) {
  char magic[4];
  in.bytes(magic, sizeof magic, "the magic number");
  if (std::memcmp(magic, "GGUF", 4) != 0) {
    in.fail("not a GGUF file: its first four bytes are \"" + printable({magic, 4}) +
            "\", expected the magic \"GGUF\"");
  }
  const auto version = in.number<uint32_t>("the version");
  if (version == 2u << 24 || version == 3u << 24) {
    in.fail("version " + std::to_string(version >> 24) +
            " in big-endian byte order; only little-endian files are read: convert the file");
  }
  if (version != 2 && version != 3) {
    in.fail("GGUF version " + std::to_string(version) + ", expected 2 or 3" +
            (version == 1 ? " (version 1 has 32-bit counts): convert the model again" : ""));
  }
  const auto tensors = in.number<uint64_t>("the number of tensors");
  const auto keys = in.number<uint64_t>("the number of keys");
  const uint64_t left = in.remaining();
  if (tensors > left / kMinTensorBytes || keys > left / kMinKeyBytes) {
    in.fail("claims " + std::to_string(tensors) + " tensors and " + std::to_string(keys) +
            " keys, but only " + std::to_string(left) + " bytes remain");
  }
  return {tensors, keys};
}

std::map<std::string, GgufFile::Value> read_keys(Cursor& in, uint64_t count) {
  std::map<std::string, GgufFile::Value> keys;
  for (uint64_t i = 0; i < count; ++i) {
    std::string key = in.string(kMaxNameBytes, "the name of key " + std::to_string(i));
    const std::string what = key_text(key);
    const auto type = in.number<uint32_t>(what);
    auto value = read_value(in, type, what);
    if (!keys.emplace(std::move(key), std::move(value)).second) in.fail(what + " occurs twice");
  }
  return keys;
}

uint64_t alignment_of(const Cursor& in, const std::map<std::string, GgufFile::Value>& keys) {
  const auto at = keys.find("general.alignment");
  if (at == keys.end()) return 32;
  uint64_t alignment = 0;
  if (const auto* u = std::get_if<uint64_t>(&at->second)) alignment = *u;
  if (const auto* i = std::get_if<int64_t>(&at->second); i && *i > 0) {
    alignment = static_cast<uint64_t>(*i);
  }
  if (alignment == 0 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
    in.fail("general.alignment: found " + std::to_string(alignment) +
            ", expected a power of 2 up to " + std::to_string(kMaxAlignment));
  }
  return alignment;
}

// The table entry of one tensor; `offset` counts from the data section, which is not known yet.
TensorInfo read_tensor(Cursor& in, uint64_t index) {
  TensorInfo tensor;
  tensor.name = in.string(kMaxTensorNameBytes, "the name of tensor " + std::to_string(index));
  const std::string what = "tensor " + printable(tensor.name);
  const auto rank = in.number<uint32_t>(what);
  if (rank < 1 || rank > 4) {
    in.fail(what + ": has " + std::to_string(rank) + " dimensions, expected 1 to 4");
  }
  tensor.dims.resize(rank);
  for (uint32_t i = 0; i < rank; ++i) {  // the file has the fastest first
    tensor.dims[rank - 1 - i] = in.number<int64_t>(what);
  }
  const auto type_id = in.number<uint32_t>(what);
  tensor.offset = in.number<uint64_t>(what);

  int64_t elements = 1;
  for (const int64_t dim : tensor.dims) {
    if (dim < 1 || __builtin_mul_overflow(elements, dim, &elements)) {
      in.fail(what + ": shape " + shape_text(tensor.dims) +
              " has a dimension below 1 or more elements than 64 bits can count");
    }
  }
  const TensorTypeInfo* type = find_tensor_type(type_id);
  if (type == nullptr) {
    const std::string_view name = unreadable_type_name(type_id);
    in.fail(what + ": type id " + std::to_string(type_id) +
            (name.empty() ? " is unknown" : " (" + std::string(name) + ") is not readable") +
            "; use a file of another quantisation, such as Q4_K_M or Q8_0");
  }
  tensor.type = type->type;
  if (tensor.row_length() % type->block_size != 0) {
    in.fail(what + ": shape " + shape_text(tensor.dims) + ": rows of " +
            std::to_string(tensor.row_length()) + " are not whole blocks of " +
            std::to_string(type->block_size) + " (" + std::string(type->name) + ")");
  }
  if (__builtin_mul_overflow(static_cast<uint64_t>(elements / type->block_size),
                             static_cast<uint64_t>(type->block_bytes), &tensor.bytes)) {
    in.fail(what + ": shape " + shape_text(tensor.dims) + " needs more than 2^64 bytes");
  }
  return tensor;
}

// Turns offsets into file offsets and checks that they are aligned, inside and disjoint.
void place_tensors(const Cursor& in, std::span<TensorInfo> tensors, uint64_t alignment,
                   uint64_t file_size) {
  const uint64_t data = (in.position() + alignment - 1) / alignment * alignment;
  const uint64_t data_size = file_size > data ? file_size - data : 0;
  for (TensorInfo& tensor : tensors) {
    const std::string what = "tensor " + printable(tensor.name);
    if (tensor.offset % alignment != 0) {
      in.fail(what + ": offset " + std::to_string(tensor.offset) + " is not a multiple of " +
              std::to_string(alignment) + " (general.alignment)");
    }
    if (tensor.offset > data_size || tensor.bytes > data_size - tensor.offset) {
      in.fail(what + ": " + std::to_string(tensor.bytes) + " bytes at offset " +
              std::to_string(tensor.offset) + " do not fit into the data section of " +
              std::to_string(data_size) + " bytes: the file is cut or damaged");
    }
    tensor.offset += data;
  }
  std::vector<const TensorInfo*> order;
  for (const TensorInfo& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset) {
      in.fail("tensors " + printable(order[i - 1]->name) + " and " + printable(order[i]->name) +
              " overlap at byte " + std::to_string(order[i]->offset));
    }
  }
}

}  // namespace

std::map<std::string, GgufFile::Value> GgufFile::parse_part(const std::string& path) {
  files_.push_back(std::make_unique<File>(path));
  const File& file = *files_.back();
  Cursor in(file);
  const Counts counts = read_header(in);
  auto keys = read_keys(in, counts.keys);
  const size_t first = tensors_.size();
  for (uint64_t i = 0; i < counts.tensors; ++i) {
    TensorInfo tensor = read_tensor(in, i);
    tensor.file = &file;
    if (!by_name_.emplace(tensor.name, tensors_.size()).second) {
      in.fail("tensor " + printable(tensor.name) + " occurs twice");
    }
    tensors_.push_back(std::move(tensor));
  }
  metadata_bytes_.push_back(in.position());
  place_tensors(in, std::span(tensors_).subspan(first), alignment_of(in, keys), file.size());
  return keys;
}

}  // namespace hotset
