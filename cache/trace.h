// Routing traces: which experts a model picked, layer by layer and step by step, so that a cache
// can be judged again and again without the model.
//
//   head    magic "hotsetT1", its size, the model's shape and name, a checksum of all that
//   blocks  magic, size and checksum of the records that follow
//   record  step, layer, phase, rows; then ids (16 bits) in rank order and weights (8 bits: weight
//           * 255) of each row
//
// Little-endian throughout. A block is written whole and checked on its own: of a trace that was
// cut short (a crash, a full disk) everything up to the last whole block can be read. An event of
// many rows is several records.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <istream>
#include <span>
#include <string>
#include <vector>

namespace hotset {

struct TraceHeader {
  uint64_t fingerprint = 0;  // of the model's files; 0: not known
  int32_t layers = 0, experts = 0, top_k = 0;
  bool has_weights = false;           // false: all weights are 0
  std::vector<int64_t> expert_bytes;  // [layers], packed; 0: not known
  std::string model;                  // its name, for people
};

enum class TracePhase : uint8_t { kDecode, kPrompt };

// A layer of a step, or some rows of it. Spans are valid until the next one is read.
struct TraceEvent {
  uint32_t step = 0;
  int32_t layer = 0;
  TracePhase phase = TracePhase::kDecode;
  int32_t rows = 0;
  std::span<const uint16_t> ids;     // [rows][top_k], heaviest first
  std::span<const uint8_t> weights;  // [rows][top_k]
};

class TraceWriter {
 public:
  // Hands the head, then blocks to `append`, whose errors pass through. `header` must be a shape
  // that a trace can have (check_trace_shape). Allocates here and not later.
  TraceWriter(const TraceHeader& header, std::function<void(std::span<const std::byte>)> append);

  // experts, weights: [rows][top_k]; no weights: nullptr.
  void add(uint32_t step, int32_t layer, TracePhase phase, const int32_t* experts,
           const float* weights, int64_t rows);
  void flush();  // what is not in a block yet becomes one

 private:
  void add_record(uint32_t step, int32_t layer, TracePhase phase, const int32_t* experts,
                  const float* weights, int64_t rows);

  const int32_t top_k_;
  const std::function<void(std::span<const std::byte>)> append_;
  std::vector<std::byte> block_;  // its head and the records so far
};

// Throws Error that begins with `name` and says which number a trace cannot hold.
void check_trace_shape(const TraceHeader& header, const std::string& name);

class TraceReader {
 public:
  // Reads the head. `name` begins the messages. Throws Error: no trace, damaged, another version.
  TraceReader(std::istream& in, std::string name);

  const TraceHeader& header() const { return header_; }
  // The next event; false at the end. Throws Error where a block is whole but says what cannot be.
  bool next(TraceEvent& event);
  // After the end: what is wrong with the rest, empty if nothing is.
  const std::string& damage() const { return damage_; }

 private:
  bool read_block();
  bool read_exactly(std::span<std::byte> out);
  [[noreturn]] void fail(const std::string& what) const;

  std::istream& in_;
  const std::string name_;
  TraceHeader header_;
  std::string damage_;
  uint64_t offset_ = 0;  // of what is read next
  std::vector<std::byte> block_;
  size_t at_ = 0;  // in the block
  std::vector<uint16_t> ids_;
  std::vector<uint8_t> weights_;
  std::vector<uint64_t> seen_in_row_;  // [experts]: the last row that had it
  uint64_t row_ = 0;
};

}  // namespace hotset
