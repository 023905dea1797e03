// Slots of one size class: one reservation with a place for every expert of the class, of which as
// many slots are in use as the budget allows. Knows what each slot holds, and that a slot which
// somebody holds is not given to anybody else. Thread-compatible: the cache calls it under its
// mutex; who has taken a slot owns its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/expert_id.h"
#include "kernels/memory.h"

namespace hotset {

class SlotPool {
 public:
  SlotPool(int64_t slot_bytes, int32_t most, int32_t slots);

  int64_t slot_bytes() const { return slot_bytes_; }
  int32_t slots() const { return slots_; }
  int32_t residents() const { return residents_; }
  int32_t free_slots() const { return static_cast<int32_t>(free_.size()); }
  std::span<std::byte> bytes(SlotId slot) const {
    return {memory_.data() + slot * slot_bytes_, static_cast<size_t>(slot_bytes_)};
  }
  ExpertId expert_of(SlotId slot) const { return state_[slot].expert; }
  // Counts the experts that the slot has held: what was true of a slot is true while it stays.
  uint32_t generation(SlotId slot) const { return state_[slot].generation; }

  SlotId take(ExpertId expert);  // a free one, to be written; -1 if there is none
  void give_back(SlotId slot);   // it holds nothing any more
  void set_resident(SlotId slot);
  void lease(SlotId slot);  // once at a time
  void end_lease(SlotId slot);
  bool is_leased(SlotId slot) const { return state_[slot].is_leased; }
  // Somebody copies what it holds; any number may.
  void begin_reading(SlotId slot) { ++state_[slot].readers; }
  void end_reading(SlotId slot) { --state_[slot].readers; }
  bool is_read(SlotId slot) const { return state_[slot].readers > 0; }

  // Slots from `slots` on are not given out any more.
  void set_slots(int32_t slots);
  // Moves what a slot that is on the way out holds to a free one, and returns that.
  SlotId move(SlotId slot);
  // No slot that is out of use is occupied; its memory goes back to the system.
  void return_memory();
  bool is_in_use(SlotId slot) const { return slot < slots_; }
  int32_t most() const { return static_cast<int32_t>(state_.size()); }
  enum class Use : uint8_t { kFree, kHeld, kResident };
  Use use(SlotId slot) const { return state_[slot].use; }

  void verify() const;

 private:
  struct State {
    ExpertId expert;
    uint32_t generation = 0;
    Use use = Use::kFree;
    bool is_leased = false;
    int32_t readers = 0;
  };

  const int64_t slot_bytes_;
  int32_t slots_;
  int32_t residents_ = 0;
  Memory memory_;
  std::vector<State> state_;  // of every place in the reservation
  std::vector<SlotId> free_;  // of the slots in use; taken from the back
};

}  // namespace hotset
