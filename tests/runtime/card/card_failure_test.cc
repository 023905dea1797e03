// A card that fails: the step ends with an error that says what has happened, nothing waits for
// ever, and what comes after is refused in words; where only the copies fail, answers stay as they
// are.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/card_runtime.h"
#include "tests/support/engine.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

class CardFailureTest : public testing::Test {
 protected:
  static std::string path() { return small_model(); }
  EngineOptions options() const {
    EngineOptions o = small_options();
    o.card = card_;
    o.card_tier.lambda = 0;
    o.card_room.expert_bytes = Engine::plan(open_model(path()), o).experts.expert_bytes_total / 4;
    return o;
  }
  std::shared_ptr<FailingRuntime> card_ = std::make_shared<FailingRuntime>();
};

// Its words, or "".
std::string error_of(Engine& engine, Session& session) {
  try {
    feed(engine, session, {{7}});
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST_F(CardFailureTest, ALostCardEndsTheStepAndLaterOnesAreRefusedInWords) {
  // Of the tokens decoded the first two are captured and launched, so that the calls meet all of
  // it.
  for (const int64_t calls : {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 28, 32}) {
    card_ = std::make_shared<FailingRuntime>();
    const auto engine = open_engine(path(), options());
    Session session = engine->open_session();
    feed(*engine, session, {{1, 2, 3}});
    card_->calls_left = calls;
    std::string error;
    for (int i = 0; i < 30 && error.empty(); ++i) error = error_of(*engine, session);
    EXPECT_NE(error.find("has fallen off"), std::string::npos) << calls << ": " << error;
    const std::string next = error_of(*engine, session);
    EXPECT_NE(next.find("the card was lost in an earlier step"), std::string::npos) << next;
    EXPECT_NE(next.find("has fallen off"), std::string::npos) << next;
    EXPECT_NE(next.find("--device cpu"), std::string::npos) << next;
    EXPECT_THROW(engine->open_session(), Error);
  }
}

TEST_F(CardFailureTest, CopiesThatFailAreToldOnceAndAnswersStayTheSame) {
  card_->only_copies = true;
  EngineOptions o = options();
  std::vector<std::string> notices;
  o.on_notice = [&](const std::string& text) { notices.push_back(text); };
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};
  const std::vector<float> expected = all_logits(*open_engine(path(), small_options()), ids, 1);
  const auto engine = open_engine(path(), o);
  card_->calls_left = 5;  // a copy is three calls or more
  for (int i = 0; i < 3; ++i) EXPECT_EQ(all_logits(*engine, ids, 1), expected);
  ASSERT_EQ(notices.size(), 1U);
  EXPECT_NE(notices[0].find("nothing is copied to the card any more"), std::string::npos);
  EXPECT_NE(notices[0].find("has fallen off"), std::string::npos);
  engine->card_tier()->verify();
  engine->set_card_room({INT64_MAX});  // waits for no copy
  EXPECT_EQ(all_logits(*engine, ids, 1), expected);
  engine->card_tier()->verify();
}

// What is put on the stream of the copies.
class CopiesRuntime : public FailingRuntime {
 public:
  using FailingRuntime::FailingRuntime;
  struct Put {
    std::string what;
    const void* to;
    int64_t bytes;
  };
  std::vector<Put> seen;  // the copies' thread's, until the engine has ended

  void copy(CardStream stream, void* to, const void* from, int64_t bytes) override {
    note(stream, {"copy", to, bytes});
    FailingRuntime::copy(stream, to, from, bytes);
  }
  void fill(CardStream stream, void* to, uint8_t byte, int64_t bytes) override {
    note(stream, {byte == 0xFF ? "being written" : "fill", to, bytes});
    FailingRuntime::fill(stream, to, byte, bytes);
  }
  void record(CardEvent event, CardStream stream) override {
    note(stream, {"record", nullptr, 0});
    FailingRuntime::record(event, stream);
  }

 private:
  void note(CardStream stream, Put put) {
    if (is_copies(stream)) seen.push_back(std::move(put));
  }
};

// So a kernel that reads a slot too early or too late finds another generation in it than the one
// that the table names (CardSlotCheck).
TEST_F(CardFailureTest, ASlotHoldsNobodysGenerationWhileItIsWritten) {
  const auto card = std::make_shared<CopiesRuntime>();
  card_ = card;
  {
    const auto engine = open_engine(path(), options());
    Session session = engine->open_session();
    for (int i = 0; i < 10; ++i) feed(*engine, session, {{7}});
  }
  const std::vector<CopiesRuntime::Put>& seen = card->seen;
  ASSERT_GE(seen.size(), 4U);
  ASSERT_EQ(seen.size() % 4, 0U);
  for (size_t i = 0; i < seen.size(); i += 4) {
    EXPECT_EQ(seen[i].what, "being written");
    EXPECT_EQ(seen[i].bytes, 4);
    EXPECT_EQ(seen[i + 1].what, "copy");
    EXPECT_GT(seen[i + 1].bytes, 4);
    EXPECT_EQ(seen[i + 2].what, "copy");
    EXPECT_EQ(seen[i + 2].to, seen[i].to);
    EXPECT_EQ(seen[i + 2].bytes, 4);
    EXPECT_EQ(seen[i + 3].what, "record");
  }
}

// Says that what is put on a stream is done when it is only put there.
class LyingRuntime : public FailingRuntime {
 public:
  using FailingRuntime::FailingRuntime;
  bool has_completed(CardEvent) override { return true; }
};

// Some slot is then named before its bytes are there, and no step's outputs may come of it.
TEST_F(CardFailureTest, ASlotThatIsReadBeforeItsBytesAreThereEndsTheProgram) {
  HOTSET_NOT_UNDER_TSAN();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto decode = [&](std::shared_ptr<FailingRuntime> card) {
    card_ = std::move(card);
    const auto engine = open_engine(path(), options());
    Session session = engine->open_session();
    for (int i = 0; i < 40; ++i) {
      feed(*engine, session, {{7}});
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return engine->card_tier()->stats().hits;
  };
  const FakeOptions lazy{.order = FakeOrder::kLazy};
  EXPECT_GT(decode(std::make_shared<FailingRuntime>(lazy)), 0);
  EXPECT_DEATH(decode(std::make_shared<LyingRuntime>(lazy)),
               "slot [0-9]+ of the card was read with generation 4294967295 in it, where the table "
               "names generation [0-9]+");
}

TEST_F(CardFailureTest, ACardThatFailsWhileItsSlotsAreResizedComputesNoStep) {
  for (const int64_t calls : {1, 2}) {  // the table is copied; the copy is waited for
    card_ = std::make_shared<FailingRuntime>();
    EngineOptions o = options();
    const CardRoom room = std::exchange(o.card_room, {});
    const auto engine = open_engine(path(), o);
    Session session = engine->open_session();
    feed(*engine, session, {{1, 2, 3}});
    card_->calls_left = calls;
    EXPECT_THROW(engine->set_card_room(room), CardError);
    card_->calls_left = INT64_MAX;
    EXPECT_NE(error_of(*engine, session).find("while its slots were resized"), std::string::npos);
    EXPECT_NE(error_of(*engine, session).find("lost in an earlier step"), std::string::npos);
  }
}

TEST_F(CardFailureTest, ACardThatFailsAtTheStartIsAnErrorOfTheCard) {
  for (const int64_t calls : {0, 1, 10, 20}) {
    card_ = std::make_shared<FailingRuntime>();
    card_->calls_left = calls;
    EXPECT_THROW(open_engine(path(), options()), CardError) << calls;
  }
}

}  // namespace
}  // namespace hotset::test
