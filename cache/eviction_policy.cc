#include "cache/eviction_policy.h"

namespace hotset {

LruPolicy::LruPolicy(int32_t slot_count) : links_(static_cast<size_t>(slot_count) + 1) {
  links_.back() = {slot_count, slot_count};
}

void LruPolicy::unlink(SlotId slot) {
  const Link link = links_[slot];
  links_[link.previous].next = link.next;
  links_[link.next].previous = link.previous;
}

void LruPolicy::link_newest(SlotId slot) {
  const auto head = static_cast<SlotId>(links_.size() - 1);
  const SlotId newest = links_[head].previous;
  links_[slot] = {newest, head};
  links_[newest].next = slot;
  links_[head].previous = slot;
}

void LruPolicy::on_admit(SlotId slot, ExpertId, int32_t) {
  link_newest(slot);
}

void LruPolicy::on_hit(SlotId slot, int32_t) {
  unlink(slot);
  link_newest(slot);
}

void LruPolicy::on_evict(SlotId slot) {
  unlink(slot);
}

SlotId LruPolicy::offer_victims(const std::function<bool(SlotId)>& accept) {
  const auto head = static_cast<SlotId>(links_.size() - 1);
  for (SlotId slot = links_[head].next; slot != head; slot = links_[slot].next) {
    if (accept(slot)) return slot;
  }
  return -1;
}

}  // namespace hotset
