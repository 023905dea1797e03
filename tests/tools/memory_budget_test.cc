#include "tools/memory_budget.h"

#include "tests/tools/cli.h"

namespace hotset {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kMB = 1'000'000;

MemoryBudget budget(int64_t room_bytes, int64_t headroom_bytes) {
  return {MemoryRoom{room_bytes, 2 * room_bytes, "control group /a"}, headroom_bytes};
}

MemoryPlan plan(int64_t expert_bytes) {
  MemoryPlan plan;
  plan.dense = 100 * kMB;
  plan.kv = 50 * kMB;
  plan.workspace = 50 * kMB;
  plan.experts.slot_bytes_total = expert_bytes;
  plan.experts.expert_bytes_total = 1000 * kMB;
  plan.experts.least_bytes = 20 * kMB;
  return plan;
}

std::string refusal(const MemoryPlan& plan, const MemoryBudget& budget) {
  try {
    check_fits(plan, budget);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(MemoryBudgetTest, HeadroomIsAPartOfTheLimitOrASize) {
  Config config;
  const MemoryRoom room{600 * kMB, 1000 * kMB, "x"};
  config.memory.headroom = "10%";
  EXPECT_EQ(memory_budget(config, room).most_bytes(), 500 * kMB);
  config.memory.headroom = "50MB";
  EXPECT_EQ(memory_budget(config, room).most_bytes(), 550 * kMB);
  config.memory.headroom = "2GB";
  EXPECT_EQ(memory_budget(config, room).most_bytes(), 0);
  EXPECT_EQ(memory_budget(config, {}).most_bytes(), INT64_MAX);
}

TEST(MemoryBudgetTest, AutoTakesWhatFitsAndNoMoreThanThereIs) {
  const auto bytes = [](const char* ram, int64_t room) {
    return expert_bytes_of(ram, 1000 * kMB, 200 * kMB, budget(room, 100 * kMB));
  };
  EXPECT_EQ(bytes("auto", 5000 * kMB), 1000 * kMB);
  EXPECT_EQ(bytes("auto", 800 * kMB), 500 * kMB);
  EXPECT_EQ(bytes("auto", 250 * kMB), 0);
  EXPECT_EQ(bytes("40%", 800 * kMB), 400 * kMB);
  EXPECT_EQ(bytes("16GB", 800 * kMB), 16000 * kMB) << "what was asked for is not made less";
  EXPECT_EQ(expert_bytes_of("auto", 7, 200, MemoryBudget{}), 7) << "no limit is known";
}

TEST(MemoryBudgetTest, APlanThatDoesNotFitIsRefusedWithNumbersAndWhatToDo) {
  EXPECT_EQ(refusal(plan(400 * kMB), budget(700 * kMB, 100 * kMB)), "");
  EXPECT_THAT(refusal(plan(401 * kMB), budget(700 * kMB, 100 * kMB)),
              AllOf(HasSubstr("takes 601 MB"), HasSubstr("experts 401 MB"),
                    HasSubstr("control group /a has room for 700 MB"), HasSubstr("keeps 100 MB"),
                    HasSubstr("up to 400MB fits")));
  EXPECT_THAT(refusal(plan(20 * kMB), budget(300 * kMB, 100 * kMB)),
              AllOf(HasSubstr("lower ctx"), testing::Not(HasSubstr("fits;"))));
  EXPECT_EQ(refusal(plan(1000 * kMB), MemoryBudget{}), "");
}

TEST(MemoryBudgetTest, ThePlanSaysOfHowMuch) {
  EXPECT_THAT(describe_plan(plan(400 * kMB), budget(700 * kMB, 100 * kMB)),
              HasSubstr("total 600 MB of 700 MB (control group /a; headroom 100 MB)"));
}

TEST(MemoryBudgetTest, ACardsMemoryIsNotTheHosts) {
  MemoryPlan both = plan(400 * kMB);
  const int64_t host = both.total();
  both.card = {.dense = 100 * kMB,
               .recurrent = 1 * kMB,
               .workspace = 9 * kMB,
               .slot_bytes = 300 * kMB,
               .kv = 50 * kMB,
               .shared = 320 * kMB};
  EXPECT_EQ(both.total(), host);
  EXPECT_THAT(
      describe_plan(both, budget(700 * kMB, 100 * kMB)),
      AllOf(HasSubstr("total 600 MB of 700 MB"),
            HasSubstr("\ncard: dense 100 MB, experts 300 MB, kv up to 50.0 MB, both together "
                      "at most 320 MB"),
            HasSubstr("total 430 MB")));
}

class MemoryCliTest : public CliTest {};

TEST_F(MemoryCliTest, TheBudgetIsSaidAtStartAndTooLargeAModelIsRefused) {
  EXPECT_THAT(hotset("run -n 1 -m " + kDemo + " -p x").err, HasSubstr("headroom"));
  expect_error("run -m " + kDemo + " -p x --set memory.headroom=100%", 1, "does not fit");
  const json plan = hotset_json("inspect --json --plan --ram 100% " + kDemo)["plan"];
  EXPECT_GE(plan["room"], plan["total"]);
  EXPECT_EQ(plan["fits"], true);
}

}  // namespace
}  // namespace hotset
