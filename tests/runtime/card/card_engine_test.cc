// An engine with a card does what one without does, with the same bits: sessions, snapshots,
// observers, exceptions, changes beside steps; and it asks no more of the card than it should. With
// the emulated card.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "kernels/check.h"
#include "kernels/cuda/fake_runtime.h"
#include "tests/support/card_runtime.h"
#include "tests/support/card_texts.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

// Counts what a step asks of the card; what copies ask is not counted.
class CountingRuntime : public WatchedRuntime {
 public:
  std::atomic<int> allocations = 0;
  int waits = 0, captures = 0, launches = 0;

 private:
  void before(const std::string& call, CardStream stream) override {
    if (call == "allocate") ++allocations;
    if (is_copies(stream)) return;
    if (call == "synchronise") ++waits;
    if (call == "begin_capture") ++captures;
    if (call == "launch") ++launches;
  }
};

// It is the engine's, not a model's: one with delta nets and a shared expert serves.
class CardEngineTest : public testing::Test {
 protected:
  static std::string path() { return small_model(); }
  static EngineOptions options() { return small_options(3); }
  static std::unique_ptr<Engine> cpu() { return open_engine(path(), options()); }
  static std::unique_ptr<Engine> with_card(EngineOptions o = options(), FakeOptions fake = {}) {
    o.card = make_fake_runtime(fake);
    o.card_tier.lambda = 0;
    o.card_room.expert_bytes =
        Engine::plan(open_model(path()), options()).experts.expert_bytes_total / 4;
    return open_engine(path(), o);
  }
  const std::vector<int32_t> ids_ = text_of("qwen3_next-b");
};

TEST_F(CardEngineTest, EveryPolicyAndASmallTierInMemoryGiveTheSameBits) {
  const std::vector<float> expected = logits_of(*cpu(), ids_);
  for (const PolicyKind policy :
       {PolicyKind::kScore, PolicyKind::kLru, PolicyKind::kLfu, PolicyKind::kStatic}) {
    EngineOptions o = options();
    o.policy.kind = policy;
    o.expert_bytes = policy == PolicyKind::kLru ? 0 : INT64_MAX;
    EXPECT_TRUE(same_bits(logits_of(*with_card(o), ids_), expected)) << static_cast<int>(policy);
  }
}

TEST_F(CardEngineTest, SessionsThatDecodeTogetherKeepTheirBits) {
  const auto run = [&](Engine& engine) {
    std::vector<float> all;
    std::vector<Session> sessions;
    for (int i = 0; i < 3; ++i) {
      sessions.push_back(engine.open_session());
      feed(engine, sessions.back(), std::span(ids_).subspan(i, 5 + 7 * i));
    }
    for (int32_t step = 0; step < 4; ++step) {
      std::vector<BatchRow> rows;
      for (Session& session : sessions)
        rows.push_back({&session, 20 + step, session.position(), true});
      const std::span<const float> logits = engine.step(rows);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  };
  EXPECT_TRUE(same_bits(run(*with_card()), run(*cpu())));
}

TEST_F(CardEngineTest, SnapshotsOfTheCardsMemoryContinueWithTheSameBits) {
  const auto engine = with_card(options(), {.order = FakeOrder::kLazy});
  Session session = engine->open_session();
  feed(*engine, session, std::span(ids_).first(30));
  expect_to_continue_from_a_snapshot(*engine, session);
}

TEST_F(CardEngineTest, WhoLooksOnSeesTheSameBits) {
  const std::vector<int32_t> ids(ids_.begin(), ids_.begin() + 8);
  const auto on_cpu = cpu(), on_card = with_card(options(), {.order = FakeOrder::kLazy});
  test::Recorder expected(on_cpu->config()), seen(on_card->config());
  all_logits(*on_cpu, ids, 1, &expected);
  all_logits(*on_card, ids, 1, &seen);
  EXPECT_EQ(seen.experts, expected.experts);
  for (size_t layer = 0; layer < expected.hidden.size(); ++layer) {
    EXPECT_TRUE(same_bits(seen.hidden[layer], expected.hidden[layer])) << layer;
  }
  for (size_t layer = 0; layer < expected.weights.size(); ++layer) {
    EXPECT_TRUE(same_bits(seen.weights[layer], expected.weights[layer])) << layer;
  }
}

TEST_F(CardEngineTest, ForcedPicksGoToTheCard) {
  const auto run = [&](std::unique_ptr<Engine> engine) {
    const auto k = static_cast<int32_t>(engine->config().num_experts_per_tok);
    engine->force_routing([k](int32_t layer, int32_t* experts, int64_t rows) {
      for (int64_t i = 0; i < rows * k; ++i) experts[i] = (layer + static_cast<int32_t>(i % k)) % 8;
    });
    return logits_of(*engine, ids_);
  };
  EXPECT_TRUE(same_bits(run(with_card()), run(cpu())));
}

// Ctrl-C and all other exceptions in the middle of a token: nothing on the card or in the host's
// threads waits for ever, the engine can be used again, or ends.
TEST_F(CardEngineTest, AnExceptionInTheMiddleOfATokenLeavesNothingWaiting) {
  struct Thrower : StepObserver {
    void on_hidden(int32_t layer, const float*, int64_t) override {
      if (layer == 1) throw Error("somebody has had enough");
    }
    void on_routing(int32_t, const int32_t*, const float*, int64_t) override {}
  };
  const std::vector<float> expected = logits_of(*cpu(), ids_);
  for (const FakeOrder order : {FakeOrder::kInOrder, FakeOrder::kLazy}) {
    const auto engine = with_card(options(), {.order = order});
    for (int i = 0; i < 3; ++i) {
      Session session = engine->open_session();
      feed(*engine, session, std::span(ids_).first(3));
      Thrower thrower;
      EXPECT_THROW(feed(*engine, session, {{7}}, 0, nullptr, &thrower), Error);
    }
    EXPECT_TRUE(same_bits(logits_of(*engine, ids_), expected));
  }
}

TEST_F(CardEngineTest, ADecodedTokenIsOneGraphAndOneWait) {
  HOTSET_NOT_UNDER_TSAN();
  const auto card = std::make_shared<CountingRuntime>();
  EngineOptions o = options();
  o.card = card;
  const auto engine = open_engine(path(), o);
  Session session = engine->open_session();
  feed(*engine, session, std::vector<int32_t>(250, 5));
  feed(*engine, session, {{1}});
  const int waits = card->waits, launches = card->launches, allocations = card->allocations;
  for (int32_t i = 0; i < 4; ++i) feed(*engine, session, {{i}});
  EXPECT_EQ(card->captures, 1);
  EXPECT_EQ(card->launches, launches + 4);
  EXPECT_EQ(card->waits, waits + 4);
  EXPECT_EQ(card->allocations, allocations);
  feed(*engine, session, {{3}});  // position 255, the last of a KV block
  EXPECT_EQ(card->captures, 1);
  feed(*engine, session, {{4}});
  EXPECT_EQ(card->captures, 2) << "attention is spread over two blocks from here on";
}

TEST_F(CardEngineTest, ResizingAndChangingPolicyBesideStepsChangesNoBit) {
  const std::vector<float> expected = logits_of(*cpu(), ids_);
  for (const FakeOrder order : {FakeOrder::kInOrder, FakeOrder::kLazy}) {
    const auto engine = with_card(options(), {.order = order});
    const int64_t all = engine->memory_plan().experts.expert_bytes_total;
    std::atomic<bool> has_ended = false;
    std::atomic<int> changes = 0;
    std::jthread changer([&] {
      const double parts[] = {0.1, 1.0, 0.0, 0.3, 0.7, 0.02};
      for (size_t i = 0; !has_ended; ++i, ++changes) {
        engine->set_card_room({static_cast<int64_t>(parts[i % 6] * static_cast<double>(all))});
        engine->replace_policy({static_cast<PolicyKind>(i % 4), 0});
        engine->resize_experts(i % 3 == 0 ? all / 2 : all);
      }
    });
    EXPECT_TRUE(same_bits(logits_of(*engine, ids_), expected));
    has_ended = true;
    changer.join();
    EXPECT_GT(changes, 6);
    engine->card_tier()->verify();
  }
}

TEST_F(CardEngineTest, WhoStaysWhenItsSlotGoesIsMovedWithItsBytes) {
  const std::vector<float> expected = logits_of(*cpu(), ids_);
  const auto engine = with_card();
  const CardTier& tier = *engine->card_tier();
  const auto all = static_cast<double>(engine->memory_plan().experts.expert_bytes_total);
  const auto resize = [&](double part) {
    engine->set_card_room({static_cast<int64_t>(part * all)});
    return std::vector<SlotId>(tier.table().begin(), tier.table().end());
  };
  resize(1.0);
  logits_of(*engine, ids_);
  const std::vector<SlotId> before = resize(1.0);
  const auto resident =
      std::count_if(before.begin(), before.end(), [](SlotId s) { return s >= 0; });
  const std::vector<SlotId> after =
      resize(0.35 * static_cast<double>(resident) / static_cast<double>(before.size()));
  int moved = 0;
  for (size_t i = 0; i < before.size(); ++i)
    moved += after[i] >= 0 && after[i] != before[i] ? 1 : 0;
  EXPECT_GT(moved, 0) << "of " << resident;
  const int64_t hits = tier.stats().hits;
  EXPECT_TRUE(same_bits(logits_of(*engine, ids_), expected));
  EXPECT_GT(tier.stats().hits, hits);
}

// Positions 255 and 256 lie in two blocks; what lies before is empty, which costs no time.
TEST_F(CardEngineTest, KeysAndValuesThatGrowTakeTheirMemoryFromSlots) {
  HOTSET_NOT_UNDER_TSAN();
  EngineOptions o = options();
  o.sessions = 1;
  const MemoryPlan plan = Engine::plan(open_model(path()), o);
  const int64_t kv_block = plan.kv / 2, slots = plan.experts.expert_bytes_total / 2;
  ASSERT_LT(kv_block, slots);
  const auto run = [&](Engine& engine) {
    Session session = engine.open_session();
    Snapshot snapshot = session.snapshot();
    snapshot.tokens.resize(254);
    snapshot.kv.resize(static_cast<size_t>(kv_block));
    session.restore(snapshot);
    std::vector<float> all;
    for (int32_t i = 0; i < 4; ++i) {
      const std::span<const float> logits = feed(engine, session, {{20 + i}});
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  };
  const std::vector<float> expected = run(*open_engine(path(), o));
  o.card = make_fake_runtime({.order = FakeOrder::kLazy});
  o.card_tier.lambda = 0;
  o.card_room = {INT64_MAX, slots + kv_block};
  const auto engine = open_engine(path(), o);
  const int64_t before = engine->card_tier()->plan().slot_bytes_total;
  EXPECT_LE(before, slots);
  EXPECT_GT(before, slots - slots / 4);
  EXPECT_TRUE(same_bits(run(*engine), expected));
  const int64_t after = engine->card_tier()->plan().slot_bytes_total;
  EXPECT_LE(after, slots - kv_block);
  EXPECT_EQ(engine->card_shared_bytes(), after + 2 * kv_block);
  engine->card_tier()->verify();
}

TEST_F(CardEngineTest, SlotsBeginWithTheBestOfTheScoresTheyAreGiven) {
  EngineOptions o = options();
  const ModelConfig& c = open_model(path()).config;
  std::vector<float> scores(static_cast<size_t>(c.num_hidden_layers * c.num_experts));
  for (int64_t i = 0; i < 3; ++i) scores[static_cast<size_t>(i * c.num_experts + 2 + i)] = 1;
  o.expert_scores = scores;
  const auto engine = with_card(o);
  engine->wait_until_resident([](int64_t, int64_t, const char*) {});
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  const int64_t wanted = 3 * engine->card_tier()->plan().classes[0].slot_bytes;
  while (engine->card_tier()->stats().bytes_read < wanted &&
         std::chrono::steady_clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  Session session = engine->open_session();
  feed(*engine, session, {{1, 2, 3}});  // a prompt chooses nobody
  const std::span<const SlotId> table = engine->card_tier()->table();
  for (size_t i = 0; i < scores.size(); ++i) EXPECT_EQ(table[i] >= 0, scores[i] > 0) << i;
}

TEST_F(CardEngineTest, WhereTheCardHasNoMemoryLeftSlotsGiveWay) {
  EngineOptions o = options();
  o.card_room.expert_bytes = INT64_MAX;  // without a bound for both
  const auto card = [&](int64_t bytes) {
    o.card = make_fake_runtime({.memory_bytes = bytes});
    return open_engine(path(), o);
  };
  const auto roomy = card(FakeOptions{}.memory_bytes);
  const CardMemoryInfo info = roomy->card()->memory_info();
  const auto engine = card(info.total_bytes - info.free_bytes + 100);
  const int64_t all = engine->card_tier()->plan().slot_bytes_total;
  EXPECT_EQ(all, engine->memory_plan().experts.expert_bytes_total);
  EXPECT_TRUE(same_bits(logits_of(*engine, ids_), logits_of(*cpu(), ids_)));
  EXPECT_LT(engine->card_tier()->plan().slot_bytes_total, all);
  EXPECT_GT(engine->card_tier()->plan().slot_bytes_total, 0);
  engine->card_tier()->verify();
  EXPECT_THROW(engine->set_card_room({INT64_MAX}), CardError);
  engine->card_tier()->verify();
}

TEST_F(CardEngineTest, WithoutMemoryForKeysAndValuesAStepIsRefusedAndTheNextOneIsTried) {
  EngineOptions o = options();
  const auto card = [&](int64_t bytes) {
    o.card = make_fake_runtime({.memory_bytes = bytes});
    return open_engine(path(), o);
  };
  const CardMemoryInfo info = card(FakeOptions{}.memory_bytes)->card()->memory_info();
  const auto engine = card(info.total_bytes - info.free_bytes + 100);
  Session session = engine->open_session();
  for (int i = 0; i < 2; ++i) {
    try {
      feed(*engine, session, {{1}});
      FAIL() << "no memory for a block";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("no room for keys and values"), std::string::npos);
    }
    EXPECT_EQ(session.position(), 0);
  }
}

TEST_F(CardEngineTest, ACardThatIsTooSmallIsAnErrorWithNumbers) {
  EngineOptions o = options();
  o.card = make_fake_runtime({.memory_bytes = 100'000});
  try {
    open_engine(path(), o);
    FAIL() << "a card of 100 kB";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the card has no room for"), std::string::npos);
  }
}

}  // namespace
}  // namespace hotset::test
