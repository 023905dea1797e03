// A prompt's missing experts on the card: computed in a ring that they are copied into, or by the
// CPU, to the same bits; the slots stay as they are. With the emulated card, in order and late.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "kernels/check.h"
#include "tests/support/card_runtime.h"
#include "tests/support/held_out.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

constexpr int64_t kPrompt = 24;

class CardPromptTest : public testing::Test {
 protected:
  static std::string path() { return small_model(); }
  static EngineOptions options() { return small_options(3); }
  static int64_t all_bytes() {
    return Engine::plan(open_model(path()), options()).experts.expert_bytes_total;
  }
  // A break-even of nearly nothing: all that is missing is copied.
  static std::unique_ptr<Engine> with_card(PromptOptions prompts, FakeOptions fake = {},
                                           double vram = 0, EngineOptions o = options()) {
    o.card = make_fake_runtime(fake);
    o.card_tier.lambda = 0;
    o.card_prompts = prompts;
    o.card_room.expert_bytes = static_cast<int64_t>(vram * static_cast<double>(all_bytes()));
    return open_engine(path(), o);
  }
  static PromptOptions all_copied(int32_t ring) { return {ring, 0.01}; }

  // Slots that hold what was decoded; nobody else is on the way to them.
  static void warm(Engine& engine, double vram) {
    const CardTier& tier = *engine.card_tier();
    Session session = engine.open_session();
    for (int32_t i = 0; i < 8 || tier.stats().admissions < 3; ++i) {
      feed(engine, session, {{i % 8}});
    }
    engine.set_card_room({static_cast<int64_t>(vram * static_cast<double>(all_bytes()))});
    const std::span<const SlotId> table = tier.table();
    ASSERT_TRUE(std::any_of(table.begin(), table.end(), [](SlotId slot) { return slot >= 0; }));
  }

  // Logits of a prompt's positions and of three tokens decoded after it.
  std::vector<float> logits_of(Engine& engine) const {
    std::vector<float> logits = all_logits(engine, ids_);
    Session session = engine.open_session();
    feed(engine, session, ids_);
    for (int32_t i = 0; i < 3; ++i) {
      const std::span<const float> step = feed(engine, session, {{30 + i}});
      logits.insert(logits.end(), step.begin(), step.end());
    }
    return logits;
  }
  std::vector<float> cpu() const { return logits_of(*open_engine(path(), options())); }

  const std::vector<int32_t> ids_ = held_out("qwen3_next-b", kPrompt);
};

// Of its layers' distinct picks, in experts.
int64_t picked(const std::vector<std::vector<int32_t>>& layers) {
  int64_t count = 0;
  for (std::vector<int32_t> picks : layers) {
    std::sort(picks.begin(), picks.end());
    count += std::unique(picks.begin(), picks.end()) - picks.begin();
  }
  return count;
}

// A ring of 1 or 2 is gone round several times a layer, one of 8 holds a whole layer.
TEST_F(CardPromptTest, ExpertsThatPassThroughARingOfAnySizeGiveTheCpusBits) {
  HOTSET_NOT_UNDER_TSAN();
  const std::vector<float> expected = cpu();
  for (const int32_t ring : {0, 1, 2, 5, 8}) {
    const auto engine = with_card(all_copied(ring));
    EXPECT_TRUE(same_bits(logits_of(*engine), expected)) << ring;
    const PromptStats stats = engine->prompt_stats();
    EXPECT_EQ(stats.copied > 0, ring > 0);
    EXPECT_EQ(stats.computed > 0, ring == 0);
    engine->cache().verify();
  }
}

TEST_F(CardPromptTest, LateStreamsNeverChangeABitOfAPrompt) {
  const std::vector<float> expected = cpu();
  for (const int32_t ring : {1, 2, 8}) {
    const auto engine = with_card(all_copied(ring), {.order = FakeOrder::kLazy}, 0.1);
    EXPECT_TRUE(same_bits(logits_of(*engine), expected)) << ring;
    EXPECT_GT(engine->prompt_stats().copied, 0);
    engine->card_tier()->verify();
  }
}

TEST_F(CardPromptTest, SlotsAndRingAndCpuTogetherGiveTheCpusBits) {
  const auto engine = with_card({2, 4.0}, {.order = FakeOrder::kLazy}, 0.3);
  warm(*engine, 0.2);
  const int64_t hits = engine->card_tier()->stats().hits;
  EXPECT_TRUE(
      same_bits(all_logits(*engine, ids_), all_logits(*open_engine(path(), options()), ids_)));
  EXPECT_GT(engine->prompt_stats().copied, 0);
  EXPECT_GT(engine->prompt_stats().computed, 0);
  EXPECT_GT(engine->card_tier()->stats().hits, hits);
}

TEST_F(CardPromptTest, EveryMissingExpertIsCopiedOrComputedOnceALayer) {
  for (const double break_even : {0.01, 4.0, 1000.0}) {
    const auto engine = with_card({2, break_even}, {}, 0.3);
    warm(*engine, 0.2);
    const int64_t hits = engine->card_tier()->stats().hits;
    test::Recorder seen(engine->config());
    Session session = engine->open_session();
    feed(*engine, session, ids_, 0, nullptr, &seen);
    const PromptStats stats = engine->prompt_stats();
    EXPECT_GT(engine->card_tier()->stats().hits, hits);
    EXPECT_EQ(stats.copied + stats.computed,
              picked(seen.experts) - (engine->card_tier()->stats().hits - hits))
        << break_even;
    EXPECT_EQ(stats.copied == 0, break_even == 1000.0);
    EXPECT_EQ(stats.computed == 0, break_even == 0.01);
    const int64_t each = engine->card_tier()->plan().classes[0].slot_bytes;
    EXPECT_EQ(stats.copied_bytes, stats.copied * each);
  }
}

TEST_F(CardPromptTest, APromptLeavesTheSlotsAsTheyWere) {
  const auto engine = with_card(all_copied(2), {}, 0.3);
  warm(*engine, 0.2);
  const CardTier& tier = *engine->card_tier();
  const std::vector<SlotId> before(tier.table().begin(), tier.table().end());
  const CacheStats stats = tier.stats();
  Session session = engine->open_session();
  feed(*engine, session, ids_);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // if it has chosen anybody
  feed(*engine, session, {{1, 2}});
  EXPECT_EQ(std::vector<SlotId>(tier.table().begin(), tier.table().end()), before);
  EXPECT_EQ(tier.stats().evictions, stats.evictions);
  EXPECT_EQ(tier.stats().admissions, stats.admissions);
  EXPECT_EQ(tier.stats().bytes_read, stats.bytes_read);
  EXPECT_GT(engine->prompt_stats().copied, 0);
  tier.verify();
}

// What is not in the host's memory cannot be copied from there.
TEST_F(CardPromptTest, ExpertsOnDiskAreComputedByTheCpu) {
  const std::vector<float> expected = cpu();
  EngineOptions o = options();
  o.expert_bytes = all_bytes() / 2;
  const auto engine = with_card(all_copied(2), {.order = FakeOrder::kLazy}, 0.1, o);
  EXPECT_TRUE(same_bits(logits_of(*engine), expected));
  EXPECT_GT(engine->prompt_stats().copied, 0);
  EXPECT_GT(engine->prompt_stats().computed, 0);
  engine->cache().verify();
}

TEST_F(CardPromptTest, TheHostsCacheLearnsOfCopiedExpertsAsOfComputedOnes) {
  const auto scores = [&](int32_t ring) {
    const auto engine = with_card(all_copied(ring));
    Session session = engine->open_session();
    feed(*engine, session, ids_);
    std::vector<float> scores(engine->card_tier()->table().size());
    engine->cache().save_scores(scores);
    return scores;
  };
  const std::vector<float> expected = scores(0);
  EXPECT_GT(*std::max_element(expected.begin(), expected.end()), 0.0f);
  EXPECT_EQ(scores(2), expected);
}

TEST_F(CardPromptTest, ChangesOfTheHostsCacheBesidePromptsWaitForNobodyForEver) {
  const std::vector<float> expected = cpu();
  const auto engine = with_card({2, 4.0}, {.order = FakeOrder::kLazy}, 0.3);
  std::atomic<bool> has_ended = false;
  std::atomic<int> changes = 0;
  std::jthread changer([&] {
    for (int i = 0; !has_ended; ++i, ++changes) {
      engine->resize_experts(all_bytes() * (1 + i % 3) / 3);
    }
  });
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(same_bits(logits_of(*engine), expected));
  has_ended = true;
  changer.join();
  EXPECT_GT(changes, 6);
  engine->cache().verify();
}

// Beside the first copies of a prompt somebody wants the host's cache smaller.
class ResizingRuntime : public WatchedRuntime {
 public:
  using WatchedRuntime::WatchedRuntime;
  std::function<void()> resize;
  std::atomic<bool> has_resized = false;
  bool was_held = false;
  std::jthread thread;

 private:
  void before(const std::string& call, CardStream) override {
    if (call != "wait" || thread.joinable()) return;
    thread = std::jthread([this] {
      resize();
      has_resized = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    was_held = !has_resized;
  }
};

TEST_F(CardPromptTest, TheHostsCacheStaysAsItIsWhileExpertsAreHeldForCopies) {
  const std::vector<float> expected = cpu();
  const auto card = std::make_shared<ResizingRuntime>();
  EngineOptions o = options();
  o.card = card;
  o.card_prompts = all_copied(2);
  const auto engine = open_engine(path(), o);
  card->resize = [&] { engine->resize_experts(all_bytes() / 2); };
  EXPECT_TRUE(same_bits(logits_of(*engine), expected));
  EXPECT_TRUE(card->was_held);
  card->thread.join();
  EXPECT_TRUE(card->has_resized);
  engine->cache().verify();
}

class FullRuntime : public WatchedRuntime {
 public:
  std::atomic<bool> is_full = false;
  std::byte* allocate(int64_t bytes, const char* what) override {
    if (is_full) throw CardError(std::string("the card: has no room for ") + what);
    return WatchedRuntime::allocate(bytes, what);
  }

 private:
  void before(const std::string&, CardStream) override {}
};

TEST_F(CardPromptTest, WhereAllExpertsHadSlotsAShrunkCardIsGivenARing) {
  HOTSET_NOT_UNDER_TSAN();
  const std::vector<float> expected = cpu();
  const auto engine = with_card(all_copied(2), {.order = FakeOrder::kLazy}, 1.0);
  EXPECT_TRUE(same_bits(logits_of(*engine), expected));
  EXPECT_EQ(engine->prompt_stats().copied, 0);
  EXPECT_EQ(engine->card_ring_bytes(), 0);
  engine->set_card_room({all_bytes() / 5});
  const int64_t ring_bytes = 2 * engine->card_tier()->plan().classes[0].slot_bytes;
  EXPECT_EQ(engine->card_ring_bytes(), ring_bytes);
  EXPECT_TRUE(same_bits(logits_of(*engine), expected));
  EXPECT_GT(engine->prompt_stats().copied, 0);
  engine->set_card_room({all_bytes()});
  EXPECT_EQ(engine->card_ring_bytes(), ring_bytes);
}

class PinnedRuntime : public WatchedRuntime {
 public:
  std::byte* allocate_pinned(int64_t bytes, const char* what) override {
    pinned_bytes += bytes;
    return WatchedRuntime::allocate_pinned(bytes, what);
  }
  int64_t pinned_bytes = 0;

 private:
  void before(const std::string&, CardStream) override {}
};

TEST_F(CardPromptTest, PinnedMemoryIsPlannedAtTheStartThatOfALaterRingToo) {
  const auto card = std::make_shared<PinnedRuntime>();
  EngineOptions o = options();
  o.card = card;
  o.card_prompts = all_copied(2);
  o.card_room.expert_bytes = all_bytes();
  const auto engine = open_engine(path(), o);
  const int64_t planned = engine->memory_plan().pinned;
  EXPECT_LT(card->pinned_bytes, planned);
  engine->set_card_room({all_bytes() / 5});
  EXPECT_EQ(card->pinned_bytes, planned);
}

TEST_F(CardPromptTest, WithoutMemoryForARingTheCpuComputesWhatIsMissingUntilThereIsSome) {
  HOTSET_NOT_UNDER_TSAN();
  const std::vector<float> expected = cpu();
  const auto card = std::make_shared<FullRuntime>();
  EngineOptions o = options();
  std::vector<std::string> notices;
  o.card = card;
  o.card_prompts = all_copied(2);
  o.card_room.expert_bytes = all_bytes();
  o.on_notice = [&](const std::string& text) { notices.push_back(text); };
  const auto engine = open_engine(path(), o);
  card->is_full = true;
  engine->set_card_room({all_bytes() / 5});
  EXPECT_TRUE(same_bits(logits_of(*engine), expected));
  EXPECT_EQ(engine->prompt_stats().copied, 0);
  EXPECT_GT(engine->prompt_stats().computed, 0);
  ASSERT_EQ(notices.size(), 1U);
  EXPECT_NE(notices[0].find("from here on"), std::string::npos);
  EXPECT_NE(notices[0].find("no room for a ring for prompts"), std::string::npos);
  card->is_full = false;
  engine->set_card_room({all_bytes() / 6});
  EXPECT_TRUE(same_bits(logits_of(*engine), expected));
  EXPECT_GT(engine->prompt_stats().copied, 0);
  EXPECT_EQ(notices.size(), 1U);
}

// The stream that waits is the ring's, or the steps' for it.
class FailingRing : public WatchedRuntime {
 public:
  using WatchedRuntime::WatchedRuntime;
  std::atomic<int64_t> copies_left = INT64_MAX;
  int64_t under_way = 0;  // calls on the steps' stream that it has not been waited for

 private:
  void before(const std::string& call, CardStream stream) override {
    if (call == "wait" && ring_.handle == nullptr) ring_ = stream;
    if (stream.handle != ring_.handle) under_way = call == "synchronise" ? 0 : under_way + 1;
    if (call != "copy" || stream.handle != ring_.handle) return;
    if (--copies_left < 0) throw CardError("the card: does not copy");
  }
  CardStream ring_;
};

TEST_F(CardPromptTest, ACopyThatFailsEndsItsStepAndTheCpuComputesLaterOnes) {
  const std::vector<float> expected = cpu();
  for (const int64_t copies : {0, 3}) {
    const auto card = std::make_shared<FailingRing>(FakeOptions{.order = FakeOrder::kLazy});
    EngineOptions o = options();
    std::vector<std::string> notices;
    o.card = card;
    o.card_prompts = all_copied(2);
    o.on_notice = [&](const std::string& text) { notices.push_back(text); };
    const auto engine = open_engine(path(), o);
    {
      Session session = engine->open_session();
      card->copies_left = copies;
      EXPECT_THROW(feed(*engine, session, ids_), CardError);
      EXPECT_EQ(card->under_way, 0) << "of a step that has ended";
    }
    engine->resize_experts(all_bytes() / 2);  // nobody is held any more
    engine->resize_experts(all_bytes());
    const int64_t copied = engine->prompt_stats().copied;
    EXPECT_TRUE(same_bits(logits_of(*engine), expected)) << copies;
    EXPECT_EQ(engine->prompt_stats().copied, copied);
    ASSERT_EQ(notices.size(), 1U);
    EXPECT_NE(notices[0].find("prompts copy no experts to the card from here on"),
              std::string::npos);
    EXPECT_NE(notices[0].find("does not copy"), std::string::npos);
    engine->cache().verify();
  }
}

}  // namespace
}  // namespace hotset::test
