// Where each pick of a layer of a prompt is computed: on the card where its expert has a slot; on
// the card in a ring that it is copied into for this layer alone; else by the CPU. Pure logic: it
// touches neither the card nor bytes, and the tier's table it only reads, so a prompt evicts
// nobody.
//
// The copies and the CPU are two lanes beside each other, each with a time of its own for an
// expert: a copy takes as long as `break_even` rows take the CPU, however many rows the expert has.
// So those with the most rows are copied, one after another, while the slower of the two lanes ends
// earlier for it. A prompt of fewer missing rows than break_even copies nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "cache/slot_pool.h"
#include "kernels/cuda/card_kernels.h"

namespace hotset {

struct PromptOptions {
  // Experts in the ring (design: 64 experts of 1.77 MB keep a copy engine busy while others are
  // computed), where not all have a slot. 0: nothing is copied, the CPU computes what has none.
  int32_t ring = 64;
  std::optional<double> break_even = {};  // none: measured
};

class PromptPlan {
 public:
  // An expert that is copied, and its entries of the list.
  struct Copied {
    int32_t expert;
    int64_t begin, end;
  };
  // Whether the expert's bytes can be had, and stay, until they have been copied.
  using Hold = std::function<bool(int32_t expert)>;

  // Writes into memory of the caller's: `list` of list_max entries, `table` of an entry an expert.
  PromptPlan(std::span<CardListedPair> list, std::span<uint32_t> table);
  static int64_t list_max(int64_t pairs, int64_t experts) {
    return pairs + (kCardTile - 1) * std::min(pairs, experts);
  }

  // picks: [pairs]; slots: [experts], -1 where an expert has none.
  void make(std::span<const int32_t> picks, std::span<const SlotId> slots, double break_even,
            int32_t ring, const Hold& hold);

  // Pairs by expert: first those of experts with slots, then those of copied ones, in the order of
  // the copies. The i-th of these has place i modulo `ring`.
  std::span<const CardListedPair> list() const { return list_.first(listed_); }
  int64_t hits_end() const { return hits_end_; }
  std::span<const Copied> copied() const { return copied_; }
  // For the lookup of the picks: kCardAbsent for those that the CPU computes.
  std::span<const uint32_t> table() const { return table_; }
  int64_t computed() const { return computed_; }  // experts, by the CPU

 private:
  void choose(double break_even, const Hold& hold);
  void append(int32_t expert, int32_t place);

  const std::span<CardListedPair> list_;
  const std::span<uint32_t> table_;
  std::vector<int32_t> rows_;     // [experts]
  std::vector<int64_t> next_;     // [experts], of the list
  std::vector<int32_t> missing_;  // picked and without a slot, most rows first
  std::vector<Copied> copied_;
  int64_t listed_ = 0, hits_end_ = 0, computed_ = 0;
};

}  // namespace hotset
