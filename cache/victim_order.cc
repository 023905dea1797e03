#include "cache/victim_order.h"

#include "kernels/check.h"

namespace hotset {

VictimOrder::VictimOrder(int32_t experts) : keys_(experts), at_(experts, -1) {
  heap_.reserve(experts);
  refused_.reserve(experts);
}

void VictimOrder::place(int32_t at, Entry entry) {
  heap_[at] = entry;
  at_[entry.index] = at;
}

void VictimOrder::sift_up(int32_t at, Entry entry) {
  while (at > 0) {
    const int32_t parent = (at - 1) / 2;
    if (!(entry < heap_[parent])) break;
    place(at, heap_[parent]);
    at = parent;
  }
  place(at, entry);
}

void VictimOrder::sift_down(int32_t at, Entry entry) {
  while (true) {
    int32_t child = 2 * at + 1;
    if (child >= size()) break;
    if (child + 1 < size() && heap_[child + 1] < heap_[child]) ++child;
    if (!(heap_[child] < entry)) break;
    place(at, heap_[child]);
    at = child;
  }
  place(at, entry);
}

// The root is the least once its entry is up to date: every other entry's key is too low, if wrong.
void VictimOrder::refresh_root() {
  while (heap_[0].key != keys_[heap_[0].index]) {
    sift_down(0, {keys_[heap_[0].index], heap_[0].index});
  }
}

void VictimOrder::set(int32_t i, double key) {
  const bool is_resident = contains(i);
  if (is_resident) remove(i);
  keys_[i] = key;
  if (is_resident) insert(i);
}

void VictimOrder::scale(double factor) {
  for (double& key : keys_) key *= factor;
  // Anew, since keys that become 0 are told apart by their index from then on.
  for (Entry& entry : heap_) entry.key = keys_[entry.index];
  for (int32_t at = size() / 2 - 1; at >= 0; --at) sift_down(at, heap_[at]);
}

void VictimOrder::insert(int32_t i) {
  HOTSET_CHECK(!contains(i), "an expert became resident twice");
  heap_.emplace_back();
  sift_up(size() - 1, {keys_[i], i});
}

void VictimOrder::remove(int32_t i) {
  HOTSET_CHECK(contains(i), "an absent expert was evicted");
  const int32_t at = at_[i];
  const Entry last = heap_.back();
  heap_.pop_back();
  at_[i] = -1;
  if (at == size()) return;
  if (at > 0 && last < heap_[(at - 1) / 2]) {
    sift_up(at, last);
  } else {
    sift_down(at, last);
  }
}

void VictimOrder::verify() const {
  int32_t resident = 0;
  for (size_t i = 0; i < at_.size(); ++i) {
    if (at_[i] < 0) continue;
    ++resident;
    HOTSET_CHECK(heap_[at_[i]].index == static_cast<int32_t>(i), "the heap misplaces an expert");
    HOTSET_CHECK(heap_[at_[i]].key <= keys_[i], "a key has become less without being set");
    if (at_[i] > 0) {
      HOTSET_CHECK(heap_[(at_[i] - 1) / 2] < heap_[at_[i]], "a parent above its child");
    }
  }
  HOTSET_CHECK(resident == size(), "residents do not add up");
}

}  // namespace hotset
