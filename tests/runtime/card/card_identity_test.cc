// Residency on a card never changes the answer: every logit of an engine with the emulated card has
// the bits of the CPU's, whatever the card's slots hold, in which order its threads run, and
// however late its streams do what they were told. (What nvcc makes of the kernels is not shown
// here.)
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "kernels/check.h"
#include "kernels/cuda/executor.h"
#include "kernels/cuda/fake_runtime.h"
#include "tests/support/card_runtime.h"
#include "tests/support/engine.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

using emulated::ExecutorScope;
using emulated::ThreadOrder;

struct CardCase {
  double vram = 0.5;  // part of all experts
  FakeOptions fake = {};
  PolicyKind policy = PolicyKind::kScore;
  double lambda = 0;
  int64_t expert_bytes = INT64_MAX;
};

// A prompt that crosses a chunk of the delta net, and one that is cheap.
constexpr int64_t kLongPrompt = 67, kPrompt = 12, kDecoded = 10;

std::vector<int32_t> text_of(const std::string& model, int64_t prompt = kPrompt) {
  const std::string golden = model.starts_with("qwen3_next-a")   ? "qwen3_next-a/golden-Q4_0"
                             : model.starts_with("qwen3_next-k") ? "qwen3_next-k/golden-Q4_K_M"
                             : model.starts_with("qwen3_next-b") ? "qwen3_next-b/golden"
                                                                 : "qwen3_moe/golden-MXFP4_MOE";
  std::vector<int32_t> ids =
      Golden(data_path("models/" + golden + ".safetensors")).integers("held.ids");
  ids.resize(prompt + kDecoded);
  return ids;
}

// Logits of a prompt and of the tokens that are decoded after it, one by one.
std::vector<float> logits_of(Engine& engine, std::span<const int32_t> ids) {
  Session session = engine.open_session();
  const int64_t prompt = std::ssize(ids) - kDecoded;
  std::vector<float> logits;
  const auto keep = [&](std::span<const float> step) {
    logits.insert(logits.end(), step.begin(), step.end());
  };
  feed(engine, session, ids.first(prompt), 0, keep);
  for (int64_t i = prompt; i < std::ssize(ids); ++i) {
    feed(engine, session, ids.subspan(i, 1), 0, keep);
  }
  return logits;
}

::testing::AssertionResult same_bits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << "other sizes";
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], 4) != 0) {
      return ::testing::AssertionFailure() << "logit " << i << ": " << a[i] << " and " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

class CardIdentityTest : public testing::TestWithParam<const char*> {
 protected:
  std::string path() const { return data_path(std::string("models/") + GetParam()); }
  static EngineOptions options() { return small_options(); }
  std::vector<float> cpu(std::span<const int32_t> ids) const {
    return logits_of(*open_engine(path(), options()), ids);
  }
  std::unique_ptr<Engine> open(const CardCase& c) const {
    EngineOptions o = options();
    o.card = make_fake_runtime(c.fake);
    o.expert_bytes = c.expert_bytes;
    o.policy.kind = c.policy;
    o.card_tier.lambda = c.lambda;
    const auto all = Engine::plan(open_model(path()), options()).experts.expert_bytes_total;
    o.card_room.expert_bytes = static_cast<int64_t>(c.vram * static_cast<double>(all));
    return open_engine(path(), o);
  }
  // Two or a few more of each size: every step wants others.
  double few_slots() const {
    for (double vram = 0.02;; vram *= 1.3) {
      const SlotPlan plan = open({.vram = vram})->card_tier()->plan();
      const auto has_few = [](const SlotPlan::Class& c) { return c.slots >= 2; };
      if (std::all_of(plan.classes.begin(), plan.classes.end(), has_few)) return vram;
    }
  }
  const std::vector<int32_t> ids_ = text_of(GetParam());
};

// 2 %: the least, a slot of each size or two.
TEST_P(CardIdentityTest, SlotsOnTheCardNeverChangeABit) {
  HOTSET_NOT_UNDER_TSAN();
  const std::vector<float> expected = cpu(ids_);
  for (const double vram : {0.0, 0.02, 0.1, 0.5, 1.0}) {
    const auto engine = open({.vram = vram});
    EXPECT_TRUE(same_bits(logits_of(*engine, ids_), expected)) << vram;
    const CacheStats stats = engine->card_tier()->stats();
    EXPECT_TRUE(stats.hits > 0 || vram < 0.5);
    EXPECT_TRUE(stats.hits == 0 || vram > 0.0);
    EXPECT_GT(stats.misses, 0) << vram;
    engine->card_tier()->verify();
    engine->cache().verify();
  }
}

TEST_P(CardIdentityTest, ALongPromptHasTheSameBits) {
  HOTSET_NOT_UNDER_TSAN();
  const std::vector<int32_t> ids = text_of(GetParam(), kLongPrompt);
  EXPECT_TRUE(same_bits(logits_of(*open({.vram = 0.5}), ids), cpu(ids)));
}

TEST_P(CardIdentityTest, EvictionsAndLateStreamsNeverChangeABit) {
  const std::vector<float> expected = cpu(ids_);
  for (const uint64_t seed : {1, 2}) {
    CardCase c;
    c.vram = few_slots();
    c.policy = PolicyKind::kLru;
    c.fake = {.order = FakeOrder::kLazy, .seed = seed};
    const auto engine = open(c);
    const auto evictions = [&] { return engine->card_tier()->stats().evictions; };
    // Copies are as late as they are: on a busy machine a text may end before the slots are full.
    for (int i = 0; i == 0 || (i < 30 && evictions() == 0); ++i) {
      EXPECT_TRUE(same_bits(logits_of(*engine, ids_), expected)) << seed;
    }
    EXPECT_GT(evictions(), 0);
    engine->card_tier()->verify();
  }
}

TEST_P(CardIdentityTest, TheOrderOfTheCardsThreadsNeverChangesABit) {
  HOTSET_NOT_UNDER_TSAN();
  const std::vector<float> expected = cpu(ids_);
  for (const ThreadOrder order : {ThreadOrder::kReverse, ThreadOrder::kRandom}) {
    const ExecutorScope scope({.order = order});
    EXPECT_TRUE(same_bits(logits_of(*open({.vram = 0.5}), ids_), expected));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CardIdentityTest,
                         testing::Values("qwen3_next-a/qwen3_next-a-Q4_0.gguf",
                                         "qwen3_next-k/qwen3_next-k-Q4_K_M.gguf", "qwen3_next-b",
                                         "qwen3_moe/qwen3_moe-MXFP4_MOE.gguf"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) {
                             c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           }
                           return name;
                         });

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

// What follows is the engine's, not a model's: one with delta nets and a shared expert serves.
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
  const Snapshot snapshot = session.snapshot();
  const auto step = [&] {
    const std::span<const float> logits = feed(*engine, session, {{5, 6, 7}});
    return std::vector<float>(logits.begin(), logits.end());
  };
  const std::vector<float> first = step();
  EXPECT_FALSE(same_bits(step(), first));
  session.restore(snapshot);
  EXPECT_TRUE(same_bits(step(), first));
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
