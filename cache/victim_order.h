// Residents ordered by a key that only grows: a binary heap with the least key at its root. A key
// that grows is not moved at once: its entry keeps the old, lower key until it comes to the root.
// So a use costs a store, and the O(log n) is paid by the misses.
//
// Every policy keeps its order in this one: what ages does so by giving later uses more weight, and
// not by taking from earlier ones.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace hotset {

class VictimOrder {
 public:
  explicit VictimOrder(int32_t experts);  // indices 0 .. experts - 1, absent, of key 0

  double key(int32_t i) const { return keys_[i]; }
  void raise(int32_t i, double key) { keys_[i] = key; }  // not below its present one
  void set(int32_t i, double key);                       // to any; O(log n)
  void scale(double factor);                             // all keys; O(n)

  bool contains(int32_t i) const { return at_[i] >= 0; }
  int32_t size() const { return static_cast<int32_t>(heap_.size()); }
  void insert(int32_t i);
  void remove(int32_t i);

  // Offers residents by ascending key, of equal ones the lower index first, until accept(index)
  // returns true. The accepted one, which stays in; or -1.
  template <class Accept>
  int32_t offer(const Accept& accept) {
    int32_t chosen = -1;
    while (!heap_.empty()) {
      refresh_root();
      if (accept(heap_[0].index)) {
        chosen = heap_[0].index;
        break;
      }
      refused_.push_back(heap_[0].index);
      remove(refused_.back());
    }
    for (const int32_t i : refused_) insert(i);
    refused_.clear();
    return chosen;
  }

  void verify() const;

 private:
  struct Entry {
    double key;  // at most the key of `index`
    int32_t index;
    bool operator<(const Entry& other) const {
      return key < other.key || (key == other.key && index < other.index);
    }
  };
  void refresh_root();
  void sift_up(int32_t at, Entry entry);
  void sift_down(int32_t at, Entry entry);
  void place(int32_t at, Entry entry);

  std::vector<double> keys_;  // [experts]
  std::vector<int32_t> at_;   // [experts] -> place in the heap, -1: absent
  std::vector<Entry> heap_;
  std::vector<int32_t> refused_;  // of the running offer
};

}  // namespace hotset
