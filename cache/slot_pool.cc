#include "cache/slot_pool.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace hotset {

SlotPool::SlotPool(int64_t slot_bytes, int32_t most, int32_t slots)
    : slot_bytes_(slot_bytes),
      slots_(slots),
      memory_(Memory::reserve(most * slot_bytes, "expert slots")),
      state_(most) {
  HOTSET_CHECK(slots <= most, "more slots than experts");
  memory_.commit(slots * slot_bytes, "expert slots");
  free_.reserve(most);
  for (SlotId slot = slots - 1; slot >= 0; --slot) free_.push_back(slot);
}

SlotId SlotPool::take(ExpertId expert) {
  if (free_.empty()) return -1;
  const SlotId slot = free_.back();
  free_.pop_back();
  State& state = state_[slot];
  HOTSET_CHECK(state.use == Use::kFree && !state.is_leased, "a free slot is nobody's");
  state.expert = expert;
  state.use = Use::kHeld;
  ++state.generation;
  return slot;
}

void SlotPool::give_back(SlotId slot) {
  State& state = state_[slot];
  HOTSET_CHECK(state.use != Use::kFree && !state.is_leased && state.readers == 0,
               "a slot in use was given up");
  if (state.use == Use::kResident) --residents_;
  state.use = Use::kFree;
  if (is_in_use(slot)) free_.push_back(slot);
}

void SlotPool::set_resident(SlotId slot) {
  HOTSET_CHECK(state_[slot].use == Use::kHeld, "who becomes resident holds a slot");
  state_[slot].use = Use::kResident;
  ++residents_;
}

void SlotPool::lease(SlotId slot) {
  HOTSET_CHECK(state_[slot].use != Use::kFree && !state_[slot].is_leased, "a slot leased twice");
  state_[slot].is_leased = true;
}

void SlotPool::end_lease(SlotId slot) {
  HOTSET_CHECK(state_[slot].is_leased, "a lease that had not begun");
  state_[slot].is_leased = false;
}

void SlotPool::set_slots(int32_t slots) {
  HOTSET_CHECK(slots <= most(), "more slots than experts");
  if (slots > slots_) {
    memory_.commit(slots * slot_bytes_, "expert slots");
    for (SlotId slot = slots_; slot < slots; ++slot) {
      if (state_[slot].use == Use::kFree) free_.push_back(slot);
    }
  }
  slots_ = slots;
  std::erase_if(free_, [&](SlotId slot) { return slot >= slots; });
}

SlotId SlotPool::move(SlotId slot) {
  State& from = state_[slot];
  HOTSET_CHECK(from.use == Use::kResident && !from.is_leased, "only a resident at rest is moved");
  const SlotId to = take(from.expert);
  HOTSET_CHECK(to >= 0, "there is a free slot for what is moved");
  std::memcpy(bytes(to).data(), bytes(slot).data(), static_cast<size_t>(slot_bytes_));
  set_resident(to);
  give_back(slot);
  return to;
}

void SlotPool::return_memory() {
  for (SlotId slot = slots_; slot < most(); ++slot) {
    HOTSET_CHECK(state_[slot].use == Use::kFree, "memory is given back under an expert");
  }
  memory_.commit(slots_ * slot_bytes_, "expert slots");
}

void SlotPool::verify() const {
  int32_t free = 0, residents = 0;
  for (SlotId slot = 0; slot < most(); ++slot) {
    const State& state = state_[slot];
    residents += state.use == Use::kResident;
    free += state.use == Use::kFree && is_in_use(slot);
    HOTSET_CHECK(state.use != Use::kFree || !state.is_leased, "a free slot is leased");
    HOTSET_CHECK(state.use == Use::kResident || state.readers == 0, "a slot is read too early");
  }
  HOTSET_CHECK(residents == residents_, "residents do not add up");
  HOTSET_CHECK(free == free_slots(), "free slots do not add up");
  for (const SlotId slot : free_) {
    HOTSET_CHECK(is_in_use(slot) && state_[slot].use == Use::kFree, "a slot in use is named free");
  }
}

}  // namespace hotset
