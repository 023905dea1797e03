// Byte pair merging of one piece: joins the adjacent pair of lowest rank, the leftmost among
// equals, until no pair is in the table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace hotset {

class MergeTable {
 public:
  void reserve(size_t count) { merges_.reserve(count); }
  // A pair that is given again takes the later rank, as in the reference implementation.
  void add(int32_t left, int32_t right, int32_t rank, int32_t product);
  // Merges `ids` in place. O(n log n): a piece can be a megabyte without a space.
  void merge(std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    int32_t rank, product;
  };
  const Merge* find(int32_t left, int32_t right) const;

  std::unordered_map<uint64_t, Merge> merges_;
};

}  // namespace hotset
