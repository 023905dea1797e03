// The merge loop: a heap of candidate pairs over a linked list of symbols.
#include "runtime/tokenizer/merge_table.h"

#include <functional>
#include <queue>
#include <utility>

namespace hotset {
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

}  // namespace

void MergeTable::add(int32_t left, int32_t right, int32_t rank, int32_t product) {
  merges_.insert_or_assign(pair_key(left, right), Merge{rank, product});
}

const MergeTable::Merge* MergeTable::find(int32_t left, int32_t right) const {
  const auto at = merges_.find(pair_key(left, right));
  return at == merges_.end() ? nullptr : &at->second;
}

void MergeTable::merge(std::vector<int32_t>& ids) const {
  constexpr int32_t kGone = -1;  // a symbol that its left neighbour has swallowed
  const size_t end = ids.size();
  std::vector<size_t> next(end), previous(end);  // previous of the first is never read
  for (size_t i = 0; i < end; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;
  }
  using Candidate = std::pair<int32_t, size_t>;  // rank, left symbol: the heap's order is the rule
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto offer = [&](size_t left) {
    if (next[left] == end) return;
    const Merge* merge = find(ids[left], ids[next[left]]);
    if (merge != nullptr) candidates.emplace(merge->rank, left);
  };
  for (size_t i = 0; i + 1 < end; ++i) offer(i);

  while (!candidates.empty()) {
    const auto [rank, left] = candidates.top();
    candidates.pop();
    if (ids[left] == kGone || next[left] == end) continue;
    const size_t right = next[left];
    const Merge* merge = find(ids[left], ids[right]);
    if (merge == nullptr || merge->rank != rank) continue;  // the pair has changed since
    ids[left] = merge->product;
    ids[right] = kGone;
    next[left] = next[right];
    if (next[left] != end) previous[next[left]] = left;
    if (left != 0) offer(previous[left]);
    offer(left);
  }
  std::erase(ids, kGone);
}

}  // namespace hotset
