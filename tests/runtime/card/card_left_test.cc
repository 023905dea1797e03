// A card that fails in the middle of an answer is left, where that may be: the CPU goes on with the
// text so far, and its answer is the one that the CPU gives to that text.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <optional>
#include <thread>

#include "runtime/generate.h"
#include "runtime/tokenizer/chat_template.h"
#include "tests/support/card_runtime.h"
#include "tests/support/engine.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

class CardLeftTest : public testing::Test {
 protected:
  static std::string path() { return data_path("demo/hotset-demo-q4_0.gguf"); }
  void SetUp() override {
    HOTSET_NOT_UNDER_TSAN();
    on_cpu_ = open_engine(path(), options_);
    tokenizer_.emplace(*on_cpu_->description().vocabulary);
    options_.on_notice = [this](const std::string& text) { notices_ += text + "\n"; };
    options_.before_leaving_card = [this](const MemoryPlan& plan) {
      asked_bytes_ = plan.total();
      if (!refusal_.empty()) throw Error(refusal_);
    };
    use(FakeOptions());
  }
  void use(const FakeOptions& fake) {
    card_ = std::make_shared<FailingRuntime>(fake);
    options_.card = card_;
  }
  std::unique_ptr<Engine> open() const { return open_engine(path(), options_); }
  Generation answer(Engine& engine, Session& session, const std::string& question,
                    const GenerateCallbacks& callbacks = {}) const {
    Sampler sampler({}, std::vector<bool>(engine.config().vocab_size, true));
    GenerateOptions options;
    options.max_tokens = 16;
    options.chunk = 4;
    const std::vector<int32_t> prompt =
        ChatTemplate::named("chatml").encode(*tokenizer_, {{"user", question}}, 0);
    return generate(engine, session, *tokenizer_, sampler, prompt, options, callbacks);
  }

  EngineOptions options_ = small_options();
  std::unique_ptr<Engine> on_cpu_;
  std::optional<Tokenizer> tokenizer_;
  std::shared_ptr<FailingRuntime> card_;
  std::string notices_, refusal_;
  int64_t asked_bytes_ = 0;
};

constexpr const char* kFirst = "Who are you?";
constexpr const char* kSecond = "What is 2+2?";

TEST_F(CardLeftTest, AnAnswerGoesOnOnTheCpuWhereverTheCardIsLost) {
  Session reference = on_cpu_->open_session();
  const Generation expected = answer(*on_cpu_, reference, kFirst);
  const Generation then = answer(*on_cpu_, reference, kSecond);
  for (const int64_t calls : {0, 5, 30, 60, 150, 300}) {
    use(FakeOptions());
    notices_.clear();
    const auto engine = open();
    Session session = engine->open_session();
    card_->calls_left = calls;
    const Generation out = answer(*engine, session, kFirst);
    EXPECT_EQ(out.ids, expected.ids) << calls;
    EXPECT_EQ(out.text, expected.text) << calls;
    EXPECT_EQ(out.decode_steps, expected.decode_steps);
    EXPECT_EQ(answer(*engine, session, kSecond).ids, then.ids) << calls;
    EXPECT_EQ(session.position(), reference.position());
    EXPECT_EQ(engine->card(), nullptr);
    EXPECT_EQ(engine->card_tier(), nullptr);
    EXPECT_NE(notices_.find("the CPU goes on without the card"), std::string::npos) << notices_;
    EXPECT_NE(notices_.find("has fallen off"), std::string::npos) << notices_;
    EXPECT_EQ(card_->held, 0) << "of the card's side nobody needs anything";
    EXPECT_EQ(engine->memory_plan().dense, on_cpu_->memory_plan().dense);
    EXPECT_EQ(engine->memory_plan().total(), asked_bytes_);
    EXPECT_EQ(asked_bytes_, on_cpu_->memory_plan().total());
    engine->cache().verify();
  }
}

TEST_F(CardLeftTest, TheCardsSideGoesWithTheLastWhoUsesIt) {
  options_.sessions = 2;
  for (const bool is_session_last : {false, true}) {
    use(FakeOptions());
    const auto engine = open();
    Session session = engine->open_session(), other = engine->open_session();
    answer(*engine, other, kFirst);
    std::shared_ptr<const CardTier> tier = engine->card_tier();
    card_->calls_left = 30;
    answer(*engine, session, kFirst);
    ASSERT_EQ(engine->card_tier(), nullptr);
    EXPECT_GT(card_->held, 0);
    tier->verify();
    const auto end_session = [&] { other = engine->open_session(); };
    is_session_last ? tier.reset() : end_session();
    EXPECT_GT(card_->held, 0) << is_session_last;
    is_session_last ? end_session() : tier.reset();
    EXPECT_EQ(card_->held, 0) << is_session_last;
  }
}

// The thread that resizes the slots is held up until it may go on.
class WaitingRuntime : public FailingRuntime {
 public:
  std::atomic<bool> is_resizing = false, may_go = false;
  void commit(std::byte* reservation, int64_t bytes, const char* what) override {
    if (what == std::string("expert slots")) {
      is_resizing = true;
      is_resizing.notify_all();
      may_go.wait(false);
    }
    FailingRuntime::commit(reservation, bytes, what);
  }
};

// Of a small model and without words, so that TSan sees it, too. Another thread looks on.
TEST(CardLeftThreadsTest, AThreadThatIsAtACardWhichIsLeftMeanwhileEndsThereInPeace) {
  const auto on_cpu = open_engine(small_model(), small_options());
  const int64_t quarter = on_cpu->memory_plan().experts.expert_bytes_total / 4;
  const auto card = std::make_shared<WaitingRuntime>();
  std::unique_ptr<Engine> engine;
  std::jthread resizing;
  EngineOptions options = small_options(2);
  options.card = card;
  options.before_leaving_card = [&](const MemoryPlan&) {
    resizing = std::jthread([&] { EXPECT_THROW(engine->set_card_room({quarter}), CardError); });
    card->is_resizing.wait(false);
  };
  engine = open_engine(small_model(), options);
  bool is_whole = true;
  std::jthread looking([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      if (const auto tier = engine->card_tier()) tier->verify();
      is_whole = is_whole && engine->memory_plan().total() > 0;
      is_whole = is_whole && engine->prompt_stats().copied >= 0;
    }
  });
  Session session = engine->open_session();
  feed(*engine, session, {{1, 2, 3}});
  card->calls_left = 10;
  EXPECT_THROW(feed(*engine, session, {{4}}), CardError);
  engine->leave_card("a test");
  session = engine->open_session();
  EXPECT_GT(card->held, 0) << "its slots are being resized";
  card->may_go = true;
  card->may_go.notify_all();
  resizing.join();
  looking = {};
  EXPECT_TRUE(is_whole);
  EXPECT_EQ(card->held, 0);
  const std::vector<int32_t> ids = {1, 2, 3, 4};
  EXPECT_EQ(all_logits(*engine, ids), all_logits(*on_cpu, ids));
  engine->set_card_room({quarter});  // of what is there no more
  engine->replace_policy({});
  EXPECT_EQ(engine->card_shared_bytes(), 0);
  EXPECT_EQ(engine->card_ring_bytes(), 0);
  EXPECT_EQ(engine->prompt_stats().computed, 0);
}

TEST_F(CardLeftTest, ItGoesOnWithTheBitsOfACpuThatWasGivenTheTextSoFar) {
  const auto engine = open();
  const auto force = [](Engine& forced) {
    forced.force_routing(
        [k = forced.config().num_experts_per_tok](int32_t layer, int32_t* experts, int64_t rows) {
          for (int64_t i = 0; i < rows * k; ++i) {
            experts[i] = (layer + static_cast<int32_t>(i % k)) % 8;
          }
        });
  };
  force(*engine);  // which the host knows of, too
  force(*on_cpu_);
  Session session = engine->open_session(), expected = on_cpu_->open_session();
  feed(*engine, session, std::vector<int32_t>(70, 5));
  for (int32_t token = 6; token < 9; ++token) feed(*engine, session, {{token}});
  card_->calls_left = 3;
  EXPECT_THROW(feed(*engine, session, {{9}}), CardError);
  ASSERT_TRUE(engine->may_leave_card());
  engine->leave_card("a test");
  EXPECT_FALSE(engine->may_leave_card());
  const std::vector<int32_t> fed(session.tokens().begin(), session.tokens().end());
  ASSERT_EQ(std::ssize(fed), 73);
  session = engine->open_session();
  feed(*engine, session, fed);
  feed(*on_cpu_, expected, fed);
  for (int32_t token = 9; token < 12; ++token) {
    const std::span<const float> seen = feed(*engine, session, {{token}});
    const std::span<const float> logits = feed(*on_cpu_, expected, {{token}});
    EXPECT_TRUE(std::equal(seen.begin(), seen.end(), logits.begin(), logits.end())) << token;
  }
}

TEST_F(CardLeftTest, WhereTheCpuMayNotGoOnTheErrorSaysWhyAndWhatIsLeftIsRefused) {
  refusal_ = "there is no room for 2 GB";
  const auto engine = open();
  Session session = engine->open_session();
  card_->calls_left = 60;
  try {
    answer(*engine, session, kFirst);
    FAIL() << "no room, and no card";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("has fallen off"), std::string::npos) << what;
    EXPECT_NE(what.find("cannot go on without the card: there is no room for 2 GB"),
              std::string::npos)
        << what;
  }
  try {
    engine->open_session();
    FAIL() << "a session on a lost card";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--device cpu"), std::string::npos);
  }
}

TEST_F(CardLeftTest, WhereTheCpuMayGoOnLaterTheNextQuestionIsAnsweredByIt) {
  Session reference = on_cpu_->open_session();
  const Generation expected = answer(*on_cpu_, reference, kSecond);
  refusal_ = "there is no room for 2 GB";
  const auto engine = open();
  Session session = engine->open_session();
  card_->calls_left = 60;
  for (int i = 0; i < 2; ++i) {
    try {
      answer(*engine, session, kFirst);
      FAIL() << "no room, and no card";
    } catch (const Error& error) {
      const std::string what = error.what();
      EXPECT_NE(what.find("there is no room for 2 GB"), std::string::npos) << what;
      EXPECT_EQ(what.find("earlier step"), std::string::npos) << "told once: " << what;
    }
    session.truncate(0);
  }
  EXPECT_NE(engine->card(), nullptr);
  refusal_.clear();  // somebody else has ended meanwhile
  EXPECT_EQ(answer(*engine, session, kSecond).ids, expected.ids);
  EXPECT_EQ(engine->card(), nullptr);
  EXPECT_NE(notices_.find("has fallen off"), std::string::npos) << notices_;
  EXPECT_EQ(notices_.find("earlier step"), std::string::npos) << notices_;
  engine->cache().verify();
}

TEST_F(CardLeftTest, WhoNeverMayLeaveItIsGivenTheCardsError) {
  options_.before_leaving_card = nullptr;
  const auto engine = open();
  Session session = engine->open_session();
  card_->calls_left = 60;
  EXPECT_THROW(answer(*engine, session, kFirst), CardError);
}

TEST_F(CardLeftTest, ACardWithoutMemoryForKeysAndValuesIsLeftToo) {
  const CardMemoryInfo info = open()->card()->memory_info();
  Session reference = on_cpu_->open_session();
  const Generation expected = answer(*on_cpu_, reference, kFirst);
  for (const FakeOrder order : {FakeOrder::kInOrder, FakeOrder::kLazy}) {
    use({.order = order, .memory_bytes = info.total_bytes - info.free_bytes + 100});
    options_.card_room.expert_bytes = 0;
    const auto engine = open();
    Session session = engine->open_session();
    EXPECT_EQ(answer(*engine, session, kFirst).ids, expected.ids);
    EXPECT_EQ(engine->card(), nullptr);
  }
}

TEST_F(CardLeftTest, ASessionIsEmptiedOnACardThatWasLostSinceItsLastStep) {
  Session reference = on_cpu_->open_session();
  const Generation expected = answer(*on_cpu_, reference, kSecond);
  const auto engine = open();
  Session session = engine->open_session();
  answer(*engine, session, kFirst);
  card_->calls_left = 0;
  session.truncate(0);
  EXPECT_EQ(session.position(), 0);
  EXPECT_EQ(answer(*engine, session, kSecond).ids, expected.ids);
  EXPECT_EQ(engine->card(), nullptr);
}

TEST_F(CardLeftTest, ASessionThatTheCardRefusesToClearStaysAsItWas) {
  const auto engine = open();
  Session session = engine->open_session();
  answer(*engine, session, kFirst);
  card_->is_lost = false;
  card_->calls_left = 0;
  EXPECT_THROW(session.truncate(0), CardError);
  EXPECT_GT(session.position(), 0);
}

TEST_F(CardLeftTest, CtrlCEndsItWhileTheTextGoesThroughAgain) {
  const auto engine = open();
  Session session = engine->open_session();
  card_->calls_left = 100;
  GenerateCallbacks callbacks;
  callbacks.cancelled = [&] { return engine->card() == nullptr; };
  EXPECT_EQ(answer(*engine, session, kFirst, callbacks).finish, FinishReason::kCancelled);
  EXPECT_EQ(session.position(), 0);
  callbacks.cancelled = nullptr;
  Session reference = on_cpu_->open_session();
  EXPECT_EQ(answer(*engine, session, kFirst).ids, answer(*on_cpu_, reference, kFirst).ids);
}

}  // namespace
}  // namespace hotset::test
