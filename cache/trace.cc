#include "cache/trace.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace hotset {
namespace {

static_assert(std::endian::native == std::endian::little, "a trace is little-endian");

constexpr std::array<char, 8> kMagic = {'h', 'o', 't', 's', 'e', 't', 'T', '1'};
constexpr uint32_t kBlockMagic = 0x4B4C4254;  // "TBLK"
constexpr int32_t kLayersMax = 1 << 12, kExpertsMax = 1 << 16, kTopKMax = 1 << 10;
constexpr size_t kNameMax = 256;
// About 18 tokens of 48 layers and top-10: what a crash loses, in a write of some 10 us.
constexpr size_t kBlockBytes = 32 << 10;
constexpr size_t kRowBytesMax = 3 * kTopKMax;
constexpr size_t kBlockBytesMax = 2 * kBlockBytes + kRowBytesMax;

struct Head {  // as it lies in the file; expert_bytes and the name follow
  std::array<char, 8> magic = kMagic;
  uint32_t head_bytes = 0;  // of all of it, with the checksum
  int32_t layers = 0, experts = 0, top_k = 0;
  uint32_t has_weights = 0, name_bytes = 0;
  uint64_t fingerprint = 0;
};
struct BlockHead {
  uint32_t magic = kBlockMagic, bytes = 0;
  uint64_t checksum = 0;
};
struct Record {
  uint32_t step;
  uint16_t layer, rows;
  uint32_t phase;
};

template <class T>
void append(std::vector<std::byte>& to, const T* values, size_t count) {
  const auto* bytes = reinterpret_cast<const std::byte*>(values);
  to.insert(to.end(), bytes, bytes + count * sizeof(T));
}

template <class T>
T take(std::span<const std::byte> from, size_t& at) {
  T value;
  std::memcpy(&value, from.data() + at, sizeof(value));
  at += sizeof(value);
  return value;
}

// Rows of a record, so that a block is not much longer than it should be.
int64_t rows_per_record(int32_t top_k) {
  return std::max<int64_t>(1, static_cast<int64_t>(kBlockBytes) / (3 * top_k));
}

}  // namespace

void check_trace_shape(const TraceHeader& header, const std::string& name) {
  const auto check = [&](const char* what, int64_t found, int64_t least, int64_t most) {
    if (found >= least && found <= most) return;
    throw Error(
        fmt::format("{}: found {} {}, a trace holds {} to {}", name, found, what, least, most));
  };
  check("layers", header.layers, 1, kLayersMax);
  check("experts", header.experts, 1, kExpertsMax);
  check("picks a row", header.top_k, 1, std::min(header.experts, kTopKMax));
  check("bytes of the model's name", std::ssize(header.model), 0, kNameMax);
  for (const int64_t bytes : header.expert_bytes) check("bytes of an expert", bytes, 0, 1LL << 40);
}

TraceWriter::TraceWriter(const TraceHeader& header,
                         std::function<void(std::span<const std::byte>)> append_to)
    : top_k_(header.top_k), append_(std::move(append_to)) {
  check_trace_shape(header, "the model");
  HOTSET_CHECK(std::ssize(header.expert_bytes) == header.layers, "bytes of each layer's experts");
  Head head;
  head.head_bytes = static_cast<uint32_t>(sizeof(head) + header.layers * sizeof(int64_t) +
                                          header.model.size() + sizeof(uint64_t));
  head.layers = header.layers;
  head.experts = header.experts;
  head.top_k = header.top_k;
  head.has_weights = header.has_weights ? 1 : 0;
  head.name_bytes = static_cast<uint32_t>(header.model.size());
  head.fingerprint = header.fingerprint;
  std::vector<std::byte> bytes;
  append(bytes, &head, 1);
  append(bytes, header.expert_bytes.data(), header.expert_bytes.size());
  append(bytes, header.model.data(), header.model.size());
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  append(bytes, &checksum, 1);
  append_(bytes);
  block_.reserve(sizeof(BlockHead) + kBlockBytesMax);
  block_.resize(sizeof(BlockHead));
}

void TraceWriter::add(uint32_t step, int32_t layer, TracePhase phase, const int32_t* experts,
                      const float* weights, int64_t rows) {
  const int64_t most = rows_per_record(top_k_);
  for (int64_t first = 0; first < rows; first += most) {
    add_record(step, layer, phase, experts + first * top_k_,
               weights ? weights + first * top_k_ : nullptr, std::min(most, rows - first));
    if (block_.size() >= sizeof(BlockHead) + kBlockBytes) flush();
  }
}

void TraceWriter::add_record(uint32_t step, int32_t layer, TracePhase phase, const int32_t* experts,
                             const float* weights, int64_t rows) {
  const Record record{step, static_cast<uint16_t>(layer), static_cast<uint16_t>(rows),
                      static_cast<uint32_t>(phase)};
  append(block_, &record, 1);
  for (int64_t i = 0; i < rows * top_k_; ++i) {
    const auto id = static_cast<uint16_t>(experts[i]);
    append(block_, &id, 1);
  }
  for (int64_t i = 0; i < rows * top_k_; ++i) {
    const float weight = weights ? weights[i] : 0.0f;
    const auto byte = static_cast<uint8_t>(std::lround(std::clamp(weight, 0.0f, 1.0f) * 255.0f));
    append(block_, &byte, 1);
  }
}

void TraceWriter::flush() {
  const size_t bytes = block_.size() - sizeof(BlockHead);
  if (bytes == 0) return;
  const BlockHead head{kBlockMagic, static_cast<uint32_t>(bytes),
                       XXH3_64bits(block_.data() + sizeof(head), bytes)};
  std::memcpy(block_.data(), &head, sizeof(head));
  append_(block_);
  block_.resize(sizeof(BlockHead));
}

TraceReader::TraceReader(std::istream& in, std::string name) : in_(in), name_(std::move(name)) {
  Head head;
  std::vector<std::byte> bytes(sizeof(head));
  if (!read_exactly(bytes)) fail("is no routing trace: shorter than the head of one");
  std::memcpy(&head, bytes.data(), sizeof(head));
  if (head.magic != kMagic) {
    fail("is no routing trace: found other bytes at its start, expected \"hotsetT1\"");
  }
  header_ = {
      head.fingerprint, head.layers, head.experts, head.top_k, head.has_weights != 0, {}, {}};
  check_trace_shape(header_, name_);
  const size_t rest = header_.layers * sizeof(int64_t) + head.name_bytes + sizeof(uint64_t);
  if (head.name_bytes > kNameMax || head.head_bytes != sizeof(head) + rest) {
    fail("its head's sizes contradict each other");
  }
  bytes.resize(head.head_bytes);
  if (!read_exactly(std::span(bytes).subspan(sizeof(head)))) fail("ends within its head");
  size_t at = bytes.size() - sizeof(uint64_t);
  if (take<uint64_t>(bytes, at) != XXH3_64bits(bytes.data(), bytes.size() - sizeof(uint64_t))) {
    fail("its head is damaged: the checksum does not fit");
  }
  at = sizeof(head);
  for (int32_t i = 0; i < header_.layers; ++i) {
    header_.expert_bytes.push_back(take<int64_t>(bytes, at));
  }
  header_.model.assign(reinterpret_cast<const char*>(bytes.data()) + at, head.name_bytes);
  check_trace_shape(header_, name_);
  seen_in_row_.resize(header_.experts);
}

void TraceReader::fail(const std::string& what) const {
  throw Error(name_ + ": " + what);
}

bool TraceReader::read_exactly(std::span<std::byte> out) {
  in_.read(reinterpret_cast<char*>(out.data()), static_cast<std::streamsize>(out.size()));
  offset_ += static_cast<uint64_t>(in_.gcount());
  return in_.gcount() == static_cast<std::streamsize>(out.size());
}

bool TraceReader::read_block() {
  block_.clear();
  at_ = 0;
  const uint64_t begin = offset_;
  if (!damage_.empty() || in_.peek() == std::istream::traits_type::eof()) return false;
  const auto damaged = [&](const char* what) {
    damage_ = fmt::format("{}: at byte {}: {}; what comes before is sound", name_, begin, what);
    block_.clear();
    return false;
  };
  BlockHead head;
  std::array<std::byte, sizeof(head)> bytes;
  if (!read_exactly(bytes)) return damaged("the file ends within a block");
  std::memcpy(&head, bytes.data(), sizeof(head));
  if (head.magic != kBlockMagic || head.bytes == 0 || head.bytes > kBlockBytesMax) {
    return damaged("found other bytes where a block should begin");
  }
  block_.resize(head.bytes);
  if (!read_exactly(block_)) return damaged("the file ends within a block");
  if (XXH3_64bits(block_.data(), block_.size()) != head.checksum) {
    return damaged("the checksum of a block does not fit");
  }
  return true;
}

bool TraceReader::next(TraceEvent& event) {
  if (at_ == block_.size() && !read_block()) return false;
  const uint64_t where = offset_ - block_.size() + at_;
  const auto wrong = [&](const std::string& what) {
    fail(fmt::format("at byte {}: {}", where, what));
  };
  if (block_.size() - at_ < sizeof(Record)) wrong("a record is cut short");
  const auto record = take<Record>(block_, at_);
  const size_t picks = static_cast<size_t>(record.rows) * header_.top_k;
  if (record.layer >= header_.layers || record.rows == 0 || record.phase > 1) {
    wrong(
        fmt::format("found layer {}, {} rows, phase {}, expected layer 0 to {}, some rows, "
                    "phase 0 or 1",
                    record.layer, record.rows, record.phase, header_.layers - 1));
  }
  if (block_.size() - at_ < 3 * picks) wrong("a record is cut short");
  ids_.resize(picks);
  weights_.resize(picks);
  std::memcpy(ids_.data(), block_.data() + at_, 2 * picks);
  std::memcpy(weights_.data(), block_.data() + at_ + 2 * picks, picks);
  at_ += 3 * picks;
  for (size_t i = 0; i < picks; ++i) {
    if (i % header_.top_k == 0) ++row_;
    if (ids_[i] >= header_.experts || std::exchange(seen_in_row_[ids_[i]], row_) == row_) {
      wrong(fmt::format("found expert {} in layer {}, expected distinct ones from 0 to {}", ids_[i],
                        record.layer, header_.experts - 1));
    }
  }
  event = {record.step, record.layer, static_cast<TracePhase>(record.phase),
           record.rows, ids_,         weights_};
  return true;
}

}  // namespace hotset
