// Which slot to give up. One policy object serves one size class; it owns its order. A policy
// chooses, the cache evicts exactly that.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "cache/expert_id.h"

namespace hotset {

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  virtual void on_admit(SlotId slot, ExpertId expert, int32_t rank) = 0;
  virtual void on_hit(SlotId slot, int32_t rank) = 0;
  virtual void on_evict(SlotId slot) = 0;
  // Offers occupied slots one after another, the one it would rather lose first, until `accept`
  // returns true. The cache refuses a slot that is leased or that the running event needs. Returns
  // the accepted slot, or -1 if all were refused.
  virtual SlotId offer_victims(const std::function<bool(SlotId)>& accept) = 0;
};

// Least recently used. Events, not touches, make the order: within an event, a heavier pick counts
// as the later use.
class LruPolicy : public EvictionPolicy {
 public:
  explicit LruPolicy(int32_t slot_count);
  void on_admit(SlotId slot, ExpertId expert, int32_t rank) override;
  void on_hit(SlotId slot, int32_t rank) override;
  void on_evict(SlotId slot) override;
  SlotId offer_victims(const std::function<bool(SlotId)>& accept) override;

 private:
  void unlink(SlotId slot);
  void link_newest(SlotId slot);

  // A doubly linked ring through the slots; entry slot_count is its head: next is the oldest,
  // previous the newest.
  struct Link {
    SlotId previous, next;
  };
  std::vector<Link> links_;
};

}  // namespace hotset
