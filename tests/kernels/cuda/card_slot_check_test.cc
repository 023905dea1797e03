// A slot whose bytes are not those that the table names is seen by the kernel that reads it
// (CardSlotCheck): before it has read, and when it has. Emulated: a card's kernels check in debug
// builds only.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda/card_kernels.h"
#include "tests/kernels/cuda/random_experts.h"
#include "tests/kernels/cuda/thread_orders.h"
#include "tests/support/on_demand.h"

namespace hotset {
namespace {

const CardStream kNow;
const CardKernels& card = emulated_kernels();
constexpr int64_t kHidden = 96, kInner = 32, kFirst = 2;  // slots of another size come before

class CardSlotCheckTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { HOTSET_NOT_UNDER_TSAN(); }  // what is told here is a race
  // What a step's kernels say that are given these places, one pair a row.
  CardErrors errors_with(const std::vector<int32_t>& places, bool as_list = false) {
    errors_ = {};
    const auto rows = static_cast<int64_t>(places.size());
    std::vector<CardListedPair> list;
    for (int32_t p = 0; p < rows; ++p) {
      list.push_back({p, places[p]});
      while (list.size() % kCardTile != 0) list.emplace_back();
    }
    const std::vector<float> x = random_floats(rows * kHidden, 9);
    Quantised q(rows, kHidden), inner_q(rows, kInner);
    for (int64_t r = 0; r < rows; ++r) {
      portable().quantise_activations(x.data() + r * kHidden, kHidden, q.view(), r);
    }
    std::vector<float> inner_x(rows * kInner);
    uint32_t not_finite = 0;
    CardExpertsArgs args;
    args.shape = experts_.shape;
    args.slots = experts_.slots();
    args.slot_bytes = experts_.slot_bytes;
    args.places = places.data();
    if (as_list) {
      args.list = list.data();
      args.listed = std::ssize(list);
    }
    args.rows = rows;
    args.k = 1;
    args.x = x.data();
    args.q = q.view();
    args.gate_up = gate_up_.data();
    args.inner_q = inner_q.view();
    args.inner_x = inner_x.data();
    args.out = out_.data();
    args.not_finite = &not_finite;
    args.check = {named_, held_, kFirst, &errors_};
    card.experts(kNow, args);
    return errors_;
  }

  const PackedFormat format_ = format_named(GetParam());
  RandomExperts experts_{format_, format_, format_, kHidden, kInner, 4};
  std::vector<uint32_t> names_ = {70, 80, 5, 6, 0, 8}, holds_ = {71, 81, 5, 9, 4, 8};
  uint32_t *named_ = names_.data(), *held_ = holds_.data();
  std::vector<float> gate_up_ = std::vector<float>(8 * 2 * kInner);
  std::vector<float> out_ = std::vector<float>(8 * kHidden);
  CardErrors errors_;
};

TEST_P(CardSlotCheckTest, WhoIsReadMustBeWhomTheTableNames) {
  in_thread_orders([&] {
    for (const bool as_list : {false, true}) {
      EXPECT_EQ(errors_with({0, 3, -1, 0}, as_list).wrong_slot, 0u);
      const CardErrors other = errors_with({0, 1, 3}, as_list);
      EXPECT_EQ(other.wrong_slot, kFirst + 1 + 1);
      EXPECT_EQ(other.held, 9u);
      EXPECT_EQ(other.named, 6u);
      const CardErrors nobody = errors_with({2}, as_list);
      EXPECT_EQ(nobody.wrong_slot, kFirst + 2 + 1) << "the table does not name it at all";
      EXPECT_EQ(nobody.held, 4u);
      EXPECT_EQ(nobody.named, 0u);
    }
  });
}

// Slot 0's generation lies where the last kernel writes an output: until then it is the one that is
// named.
TEST_P(CardSlotCheckTest, ASlotThatIsWrittenWhileItIsReadIsSeenAtTheEnd) {
  in_thread_orders([&] {
    constexpr int64_t kAt = 20;  // not the first thread's
    std::memcpy(&out_[kAt], &names_[kFirst], sizeof(uint32_t));
    held_ = reinterpret_cast<uint32_t*>(&out_[kAt]) - kFirst;
    const CardErrors errors = errors_with({0});
    EXPECT_EQ(errors.wrong_slot, kFirst + 1);
    uint32_t written;
    std::memcpy(&written, &out_[kAt], sizeof written);
    EXPECT_EQ(errors.held, written);
    EXPECT_EQ(errors.named, 5u);
  });
}

// Slot 0's name lies where the first kernel writes its first output: from then on it is the
// generation that is there.
TEST_P(CardSlotCheckTest, ASlotThatIsReadyWhenItHasBeenReadWasReadTooEarly) {
  EXPECT_EQ(errors_with({0}).wrong_slot, 0u);
  std::memcpy(&holds_[kFirst], gate_up_.data(), sizeof(uint32_t));
  gate_up_[0] = 0.0f;
  named_ = reinterpret_cast<uint32_t*>(gate_up_.data()) - kFirst;
  const CardErrors errors = errors_with({0});
  EXPECT_EQ(errors.wrong_slot, kFirst + 1);
  EXPECT_EQ(errors.held, holds_[kFirst]);
  EXPECT_EQ(errors.named, 0u);
}

INSTANTIATE_TEST_SUITE_P(Formats, CardSlotCheckTest, testing::Values("Q4_0", "BF16"));

}  // namespace
}  // namespace hotset
