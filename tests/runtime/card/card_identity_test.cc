// Residency on a card never changes the answer: every logit of an engine with the emulated card has
// the bits of the CPU's, whatever the card's slots hold and who chooses them, in which order its
// threads run, and however late its streams do what they were told. (What nvcc makes of the kernels
// is not shown here.)
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "kernels/cuda/executor.h"
#include "kernels/cuda/fake_runtime.h"
#include "tests/support/card_texts.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

using emulated::ExecutorScope;
using emulated::ThreadOrder;

constexpr const char* kModels[] = {"qwen3_next-a/qwen3_next-a-Q4_0.gguf",
                                   "qwen3_next-k/qwen3_next-k-Q4_K_M.gguf", "qwen3_next-b",
                                   "qwen3_moe/qwen3_moe-MXFP4_MOE.gguf"};

// What may not change a bit. Part of all experts that have slots; the least is two or a few more of
// each size.
constexpr double kFewSlots = -1;
constexpr double kVram[] = {0.0, kFewSlots, 0.1, 0.5, 1.0};
constexpr PolicyKind kPolicies[] = {PolicyKind::kScore, PolicyKind::kLru, PolicyKind::kLfu,
                                    PolicyKind::kStatic};
constexpr ThreadOrder kOrders[] = {ThreadOrder::kForward, ThreadOrder::kReverse,
                                   ThreadOrder::kRandom};
constexpr FakeOrder kStreams[] = {FakeOrder::kInOrder, FakeOrder::kLazy};

struct Settings {
  double vram = 0.5;
  PolicyKind policy = PolicyKind::kScore;
  ThreadOrder order = ThreadOrder::kForward;
  FakeOptions fake = {};
};

// Of all combinations with all models twenty, in which any two values occur together (a test below
// says so): those of a model.
std::vector<Settings> selection(size_t model) {
  std::vector<Settings> selected;
  for (size_t i = 0; i < 20; ++i) {
    if ((i % 5 + i % 4) % 4 != model) continue;
    selected.push_back({kVram[i % 5], kPolicies[i % 4], kOrders[i % 3], {kStreams[i / 3 % 2]}});
  }
  return selected;
}

TEST(CardSelectionTest, AnyTwoValuesOccurTogether) {
  std::set<std::tuple<int, int, int, int>> pairs;  // places and values of two
  const auto index_of = [](const auto& values, const auto& value) {
    return static_cast<int>(std::find(std::begin(values), std::end(values), value) -
                            std::begin(values));
  };
  for (size_t model = 0; model < std::size(kModels); ++model) {
    for (const Settings& s : selection(model)) {
      const int values[] = {static_cast<int>(model), index_of(kVram, s.vram),
                            index_of(kPolicies, s.policy), index_of(kOrders, s.order),
                            index_of(kStreams, s.fake.order)};
      for (int a = 0; a < 5; ++a) {
        for (int b = 0; b < a; ++b) pairs.emplace(a, b, values[a], values[b]);
      }
    }
  }
  size_t expected = 0;
  const size_t sizes[] = {std::size(kModels), std::size(kVram), std::size(kPolicies),
                          std::size(kOrders), std::size(kStreams)};
  for (size_t a = 0; a < 5; ++a) {
    for (size_t b = 0; b < a; ++b) expected += sizes[a] * sizes[b];
  }
  EXPECT_EQ(pairs.size(), expected);
}

class CardIdentityTest : public testing::TestWithParam<size_t> {
 protected:
  std::string path() const { return data_path(std::string("models/") + kModels[GetParam()]); }
  static EngineOptions options() { return small_options(); }
  std::vector<float> cpu(std::span<const int32_t> ids) const {
    return logits_of(*open_engine(path(), options()), ids);
  }
  std::unique_ptr<Engine> open(const Settings& s) const {
    EngineOptions o = options();
    o.card = make_fake_runtime(s.fake);
    o.policy.kind = s.policy;
    o.card_tier.lambda = 0;  // every newcomer is worth its copy
    const auto all = Engine::plan(open_model(path()), options()).experts.expert_bytes_total;
    const double vram = s.vram == kFewSlots ? few_slots() : s.vram;
    o.card_room.expert_bytes = static_cast<int64_t>(vram * static_cast<double>(all));
    return open_engine(path(), o);
  }
  // Every step wants others.
  double few_slots() const {
    for (double vram = 0.02;; vram *= 1.3) {
      const SlotPlan plan = open({.vram = vram})->card_tier()->plan();
      const auto has_few = [](const SlotPlan::Class& c) { return c.slots >= 2; };
      if (std::all_of(plan.classes.begin(), plan.classes.end(), has_few)) return vram;
    }
  }

  void expect_bits(const Settings& s, std::span<const float> expected) const {
    SCOPED_TRACE(testing::Message()
                 << "vram " << s.vram << ", policy " << policy_names()[static_cast<int>(s.policy)]
                 << ", threads' order " << static_cast<int>(s.order) << ", streams "
                 << static_cast<int>(s.fake.order));
    const ExecutorScope scope({.order = s.order, .seed = 7});
    const auto engine = open(s);
    EXPECT_TRUE(same_bits(logits_of(*engine, ids_), expected));
    const CacheStats stats = engine->card_tier()->stats();
    EXPECT_GT(stats.misses, 0);
    if (s.vram == 0.0) {
      EXPECT_EQ(stats.hits, 0);
    } else if (s.vram >= 0.5 && s.fake.order == FakeOrder::kInOrder) {
      EXPECT_GT(stats.hits, 0);
    }
    engine->card_tier()->verify();
    engine->cache().verify();
  }
  const std::vector<int32_t> ids_ = text_of(kModels[GetParam()]);
};

TEST_P(CardIdentityTest, SlotsAndPoliciesAndThreadsAndStreamsNeverChangeABit) {
  HOTSET_NOT_UNDER_TSAN();
  const std::vector<float> expected = cpu(ids_);
  for (const Settings& s : selection(GetParam())) expect_bits(s, expected);
}

using CardIdentityLongTest = CardIdentityTest;
TEST_P(CardIdentityLongTest, NoCombinationChangesABit) {
  HOTSET_ON_DEMAND("HOTSET_LONG");
  const std::vector<float> expected = cpu(ids_);
  for (const double vram : kVram) {
    for (const PolicyKind policy : kPolicies) {
      for (const ThreadOrder order : kOrders) {
        for (const FakeOrder streams : kStreams) {
          expect_bits({vram, policy, order, {streams}}, expected);
        }
      }
    }
  }
}

// It crosses a chunk of the delta net.
TEST_P(CardIdentityTest, ALongPromptHasTheSameBits) {
  HOTSET_NOT_UNDER_TSAN();
  const std::vector<int32_t> ids = text_of(kModels[GetParam()], 67);
  EXPECT_TRUE(same_bits(logits_of(*open({.vram = 0.5}), ids), cpu(ids)));
}

TEST_P(CardIdentityTest, EvictionsAndLateStreamsNeverChangeABit) {
  const std::vector<float> expected = cpu(ids_);
  for (const uint64_t seed : {1, 2}) {
    const auto engine = open({.vram = kFewSlots,
                              .policy = PolicyKind::kLru,
                              .fake = {.order = FakeOrder::kLazy, .seed = seed}});
    const auto evictions = [&] { return engine->card_tier()->stats().evictions; };
    // Copies are as late as they are: on a busy machine a text may end before the slots are full.
    for (int i = 0; i == 0 || (i < 30 && evictions() == 0); ++i) {
      EXPECT_TRUE(same_bits(logits_of(*engine, ids_), expected)) << seed;
    }
    EXPECT_GT(evictions(), 0);
    engine->card_tier()->verify();
  }
}

const auto kAllModels = testing::Range(size_t{0}, std::size(kModels));
std::string model_name(const testing::TestParamInfo<size_t>& info) {
  std::string name = kModels[info.param];
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Models, CardIdentityTest, kAllModels, model_name);
INSTANTIATE_TEST_SUITE_P(Models, CardIdentityLongTest, kAllModels, model_name);

}  // namespace
}  // namespace hotset::test
