#include "cache/prompt_plan.h"

#include <algorithm>

#include "kernels/check.h"

namespace hotset {

PromptPlan::PromptPlan(std::span<CardListedPair> list, std::span<uint32_t> table)
    : list_(list), table_(table), rows_(table.size()), next_(table.size()) {
  missing_.reserve(table.size());
  copied_.reserve(table.size());
}

void PromptPlan::make(std::span<const int32_t> picks, std::span<const SlotId> slots,
                      double break_even, int32_t ring, const Hold& hold) {
  HOTSET_CHECK(std::ssize(list_) >= list_max(std::ssize(picks), std::ssize(slots)),
               "a list for all pairs");
  std::fill(rows_.begin(), rows_.end(), 0);
  for (const int32_t e : picks) ++rows_[e];
  std::fill(table_.begin(), table_.end(), kCardAbsent);
  missing_.clear();
  copied_.clear();
  listed_ = 0;
  for (int32_t e = 0; e < std::ssize(rows_); ++e) {
    if (rows_[e] == 0) continue;
    slots[e] < 0 ? missing_.push_back(e) : append(e, slots[e]);
  }
  hits_end_ = listed_;
  if (ring > 0) choose(break_even, hold);
  computed_ = std::ssize(missing_) - std::ssize(copied_);
  for (size_t i = 0; i < copied_.size(); ++i) {
    copied_[i].begin = listed_;
    append(copied_[i].expert, static_cast<int32_t>(i) % ring);
    copied_[i].end = listed_;
  }
  for (int32_t p = 0; p < std::ssize(picks); ++p) {
    const uint32_t place = table_[picks[p]];
    if (place != kCardAbsent) list_[next_[picks[p]]++] = {p, static_cast<int32_t>(place)};
  }
}

void PromptPlan::choose(double break_even, const Hold& hold) {
  std::sort(missing_.begin(), missing_.end(), [&](int32_t a, int32_t b) {
    return rows_[a] != rows_[b] ? rows_[a] > rows_[b] : a < b;
  });
  double copies = 0, cpu = 0;  // the two lanes' times, in rows
  for (const int32_t e : missing_) cpu += rows_[e];
  for (const int32_t e : missing_) {
    if (std::max(copies + break_even, cpu - rows_[e]) >= std::max(copies, cpu)) return;
    if (!hold(e)) continue;
    copied_.push_back({e, 0, 0});
    copies += break_even;
    cpu -= rows_[e];
  }
}

// Room for the expert's pairs, in whole tiles.
void PromptPlan::append(int32_t expert, int32_t place) {
  table_[expert] = static_cast<uint32_t>(place);
  next_[expert] = listed_;
  const int64_t tiles = (rows_[expert] + kCardTile - 1) / kCardTile;
  std::fill_n(list_.begin() + listed_, tiles * kCardTile, CardListedPair());
  listed_ += tiles * kCardTile;
}

}  // namespace hotset
