#include "tools/gguf_writer.h"

#include <bit>
#include <functional>
#include <numeric>

#include "kernels/check.h"

namespace hotset {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is little-endian");

constexpr uint64_t kAlignment = 32;  // general.alignment's default
enum ValueType : uint32_t { kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9 };

template <class T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_string(std::string& out, const std::string& text) {
  append(out, uint64_t{text.size()});
  out += text;
}

uint64_t aligned(uint64_t offset) {
  return (offset + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

void GgufWriter::begin_key(const std::string& key, uint32_t type) {
  HOTSET_CHECK(!file_, "keys come before begin()");
  append_string(keys_, key);
  append(keys_, type);
  ++key_count_;
}

void GgufWriter::add_u32(const std::string& key, int64_t value) {
  HOTSET_CHECK(value >= 0 && value <= UINT32_MAX, "the value fits u32");
  begin_key(key, kU32);
  append(keys_, static_cast<uint32_t>(value));
}

void GgufWriter::add_f32(const std::string& key, double value) {
  begin_key(key, kF32);
  append(keys_, static_cast<float>(value));
}

void GgufWriter::add_bool(const std::string& key, bool value) {
  begin_key(key, kBool);
  append(keys_, static_cast<uint8_t>(value));
}

void GgufWriter::add_string(const std::string& key, const std::string& value) {
  begin_key(key, kString);
  append_string(keys_, value);
}

void GgufWriter::add_strings(const std::string& key, const std::vector<std::string>& values) {
  begin_key(key, kArray);
  append(keys_, uint32_t{kString});
  append(keys_, uint64_t{values.size()});
  for (const std::string& value : values) append_string(keys_, value);
}

void GgufWriter::add_i32s(const std::string& key, const std::vector<int32_t>& values) {
  begin_key(key, kArray);
  append(keys_, uint32_t{kI32});
  append(keys_, uint64_t{values.size()});
  for (const int32_t value : values) append(keys_, value);
}

size_t GgufWriter::add_tensor(const std::string& name, TensorType type,
                              const std::vector<int64_t>& dims) {
  HOTSET_CHECK(!file_, "tensors are declared before begin()");
  HOTSET_CHECK(dims.back() % info(type).block_size == 0, "a row is a whole number of blocks");
  append_string(table_, name);
  append(table_, static_cast<uint32_t>(dims.size()));
  for (size_t i = dims.size(); i-- > 0;) append(table_, dims[i]);
  append(table_, static_cast<uint32_t>(type));
  const uint64_t offset = aligned(data_bytes_);
  append(table_, offset);
  const int64_t rows =
      std::accumulate(dims.begin(), dims.end() - 1, int64_t{1}, std::multiplies<>());
  const auto bytes = static_cast<uint64_t>(rows * row_bytes(type, dims.back()));
  data_bytes_ = offset + bytes;
  tensors_.push_back({offset, bytes});
  return tensors_.size() - 1;
}

void GgufWriter::begin() {
  constexpr uint32_t kVersion = 3;
  std::string head = "GGUF";
  append(head, kVersion);
  append(head, uint64_t{tensors_.size()});
  append(head, key_count_);
  head += keys_ + table_;
  data_offset_ = aligned(head.size());
  head.resize(data_offset_);
  // A file ends with its last tensor padded, as other readers expect.
  data_bytes_ = aligned(data_bytes_);
  file_ = std::make_unique<OutputFile>(path_);
  file_->write(0, std::as_bytes(std::span(head)));
  const std::byte end{};
  if (data_bytes_ > 0) file_->write(file_bytes() - 1, {&end, 1});
}

void GgufWriter::write(size_t tensor, uint64_t offset, std::span<const std::byte> bytes) {
  const Extent& extent = tensors_[tensor];
  HOTSET_CHECK(offset + bytes.size() <= extent.bytes, "bytes lie inside the tensor");
  file_->write(data_offset_ + extent.offset + offset, bytes);
}

void GgufWriter::commit() {
  file_->commit();
}

}  // namespace hotset
