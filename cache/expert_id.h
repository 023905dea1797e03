// Names of things the cache deals in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace hotset {

struct ExpertId {
  int32_t layer = 0, expert = 0;
  bool operator==(const ExpertId&) const = default;
};

using SlotId = int32_t;  // within one size class

// A distinct expert that a layer of a step picked.
struct Pick {
  int32_t expert = 0;
  int32_t rank = 0;  // the best router rank any row gave it: 0 is the heaviest
};

// Where an expert's packed bytes come from: the model file, a sidecar.
class ExpertSource {
 public:
  virtual ~ExpertSource() = default;
  virtual int32_t layer_count() const = 0;
  virtual int32_t experts_per_layer() const = 0;
  virtual int64_t expert_bytes(int32_t layer) const = 0;  // packed: the layer's size class
  // Fills `slot` with the packed expert; returns the bytes read from the file. Thread-safe. Throws
  // Error.
  virtual int64_t load(ExpertId id, std::span<std::byte> slot) = 0;
  // A hint that this expert will be loaded soon, so that its bytes can be on their way. Returns at
  // once.
  virtual void expect(ExpertId) {}
};

}  // namespace hotset
