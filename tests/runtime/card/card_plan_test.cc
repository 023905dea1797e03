#include "runtime/card/card_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.h"
#include "runtime/card/prompt_ring.h"

namespace hotset {
namespace {

constexpr int64_t kMB = 1'000'000;
const std::vector<int64_t> kLayers(48, 1'770'000);

MemoryPlan host_plan() {
  MemoryPlan host;
  host.dense = 2340 * kMB;
  host.embedding = 331 * kMB;  // stays in the host's memory
  host.kv = 201 * kMB;
  host.recurrent = 80 * kMB;
  host.workspace = 494 * kMB;
  host.landing = 55 * kMB;
  host.experts = plan_slots(kLayers, 512, INT64_MAX, 10);
  return host;
}

TEST(CardPlanTest, ExpertsGetWhatIsLeftAndNoMore) {
  const CardPlan plan = plan_card(host_plan(), 10'000 * kMB, 64);
  EXPECT_LE(plan.total(), plan.vram);
  EXPECT_GT(plan.total(), plan.vram - 48 * 1'770'000);  // less than a slot a layer is wasted
  const int64_t others =
      kVramHeadroomBytes + (2340 + 201 + 80 + 494) * kMB + 64 * 1'770'000 + 48 * 512 * 4;
  EXPECT_EQ(plan.total() - plan.experts.slot_bytes_total, others);
}

TEST(CardPlanTest, ACardForAllExpertsNeedsNoRing) {
  const CardPlan plan = plan_card(host_plan(), 80'000 * kMB, 64);
  EXPECT_TRUE(plan.experts.all_resident());
  EXPECT_EQ(plan.prompt_ring, 0);
}

TEST(CardPlanTest, ARingTakesNoMoreThanItHolds) {
  EXPECT_EQ(PromptRing::slots_of(0, 512), 0);
  EXPECT_EQ(PromptRing::slots_of(3, 512), 3);
  EXPECT_EQ(PromptRing::slots_of(64, 10), 8);
  const CardPlan plan = plan_card(host_plan(), 10'000 * kMB, 7);
  EXPECT_EQ(plan.prompt_ring, 4 * 1'770'000);
}

TEST(CardPlanTest, ATooSmallCardIsAnErrorWithTheNumbers) {
  try {
    plan_card(host_plan(), 3'900 * kMB, 64);
    FAIL() << "3.9 GB are not enough";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("dense 2.34"));
    EXPECT_THAT(error.what(), testing::HasSubstr("found 3.90 GB"));
    EXPECT_THAT(error.what(), testing::HasSubstr("lower ctx"));
  }
  const int64_t least = host_plan().dense + host_plan().kv + host_plan().recurrent +
                        host_plan().workspace + kVramHeadroomBytes + 48 * 512 * 4 + 64 * 1'770'000;
  EXPECT_EQ(plan_card(host_plan(), least, 64).experts.slot_bytes_total, 0);
  EXPECT_THROW(plan_card(host_plan(), least - 1, 64), Error);
}

}  // namespace
}  // namespace hotset
