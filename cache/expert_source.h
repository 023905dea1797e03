// Where an expert's packed bytes come from: the model file, a sidecar.
//
// Two ways lead into a slot. Who has a thread to spare loads an expert whole, while its bytes are
// still in that core's caches. A step that waits has its experts read by other threads, all at
// once, in the form the file has, and packs them on its own threads as they land.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cache/expert_id.h"

namespace hotset {

class ExpertSource {
 public:
  virtual ~ExpertSource() = default;
  virtual int32_t layer_count() const = 0;
  virtual int32_t experts_per_layer() const = 0;
  virtual int64_t expert_bytes(int32_t layer) const = 0;  // of a slot: the layer's size class

  // All of these are thread-safe and throw Error, which names file, expert and offset.
  //
  // Fills `slot` with the packed expert; returns the bytes read from the file.
  virtual int64_t load(ExpertId id, std::span<std::byte> slot) = 0;

  // Reads part 0 <= part < parts() of the expert into its place in a landing of landing_bytes(),
  // which is aligned to 4096; returns the bytes read. Blocks.
  virtual int32_t parts() const { return 1; }
  virtual int64_t landing_bytes() const = 0;
  virtual int64_t read(ExpertId id, int32_t part, std::byte* landing) = 0;
  // Does task 0 <= task < pack_tasks() of packing a landing that has been read whole: shares of
  // about the same work, for a step that waits does them on all of its threads. Where the file
  // holds experts as slots do (lands_packed), the slot itself may be the landing: nothing is packed
  // then.
  virtual int32_t pack_tasks() const { return 1; }
  virtual void pack(ExpertId id, int32_t task, const std::byte* landing,
                    std::span<std::byte> slot) = 0;
  virtual bool lands_packed() const { return false; }

  // A hint that this expert will be loaded soon, so that its bytes can be on their way. Returns at
  // once.
  virtual void expect(ExpertId) {}
};

}  // namespace hotset
