// What experts' slots may take of a card's memory.
#pragma once

#include <cstdint>

namespace hotset {

struct CardRoom {
  int64_t expert_bytes = 0;  // of slots, at most
  // Of slots and of the keys and values that sequences have: these grow, slots give way.
  int64_t with_kv_bytes = INT64_MAX;

  bool operator==(const CardRoom&) const = default;
};

}  // namespace hotset
