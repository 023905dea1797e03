// A card that fails: the step ends with an error that says what has happened, nothing waits for
// ever, and what comes after is refused in words; where only the copies fail, answers stay as they
// are.
#include <gtest/gtest.h>

#include <atomic>
#include <utility>

#include "tests/support/card_runtime.h"
#include "tests/support/engine.h"

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
