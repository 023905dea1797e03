#include "runtime/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "kernels/check.h"
#include "runtime/tokenizer/chat_template.h"

namespace hotset {
namespace {

TEST(StopStringsTest, TextBeforeAStopStringComesOutAndNothingAfter) {
  StopStrings stops({"STOP"});
  EXPECT_EQ(stops.push("one two ST"), "one two");
  EXPECT_EQ(stops.push("OP three"), " ");
  EXPECT_TRUE(stops.stopped());
  EXPECT_EQ(stops.push("four"), "");
  EXPECT_EQ(stops.finish(), "");
}

TEST(StopStringsTest, WhatWasHeldBackComesOutAtTheEnd) {
  StopStrings stops({"STOP"});
  EXPECT_EQ(stops.push("a ST"), "a");
  EXPECT_EQ(stops.push("AR"), " S");
  EXPECT_EQ(stops.finish(), "TAR");
  EXPECT_FALSE(stops.stopped());
}

TEST(StopStringsTest, TheEarliestOfSeveralStopsWins) {
  StopStrings stops({"xyz", "b"});
  EXPECT_EQ(stops.push("a b xyz"), "a ");
}

TEST(StopStringsTest, CharactersAreNeverCut) {
  StopStrings stops({"12345"});  // holds back 4 bytes
  EXPECT_EQ(stops.push("a\xE2\x82\xAC"
                       "bc"),
            "a");
  EXPECT_EQ(stops.push("def"),
            "\xE2\x82\xAC"
            "b");
}

TEST(StopStringsTest, WithoutStopStringsNothingIsHeldBack) {
  StopStrings stops({""});
  EXPECT_EQ(stops.push("abc"), "abc");
  EXPECT_FALSE(stops.stopped());
}

// The demo model, as shipped.
class GenerateTest : public testing::Test {
 protected:
  static std::unique_ptr<Engine> open(int64_t context) {
    EngineOptions options;
    options.context = context;
    return std::make_unique<Engine>(
        open_model(HOTSET_SOURCE_DIR "/tests/data/demo/hotset-demo-q4_0.gguf"), options,
        [](int64_t, int64_t, const char*) {});
  }
  void SetUp() override { use(open(256)); }
  void use(std::unique_ptr<Engine> engine) {
    session_.reset();
    engine_ = std::move(engine);
    const ModelDescription& model = engine_->description();
    tokenizer_.emplace(*model.vocabulary);
    session_.emplace(engine_->open_session());
    options_.stop_ids = model.stop_ids;
  }
  std::vector<int32_t> question(const std::string& text) {
    return ChatTemplate::named("chatml").encode(*tokenizer_, {{"user", text}}, 0);
  }
  Generation answer(const std::vector<int32_t>& prompt, const GenerateCallbacks& callbacks = {}) {
    Sampler sampler({}, std::vector<bool>(engine_->config().vocab_size, true));
    return generate(*engine_, *session_, *tokenizer_, sampler, prompt, options_, callbacks);
  }

  std::unique_ptr<Engine> engine_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<Session> session_;
  GenerateOptions options_;
};

TEST_F(GenerateTest, AStopTokenEndsTheAnswerAndIsNotPartOfIt) {
  std::string streamed;
  const Generation out =
      answer(question("What is 2+2?"), {[&](std::string_view piece) { streamed += piece; }, {}});
  EXPECT_EQ(out.text, "4");
  EXPECT_EQ(streamed, "4");
  EXPECT_EQ(out.finish, FinishReason::kStop);
  EXPECT_EQ(out.ids.size(), 1u);
  EXPECT_EQ(out.decode_steps, 1);
  EXPECT_EQ(session_->position(), out.prompt_tokens + 1);
}

TEST_F(GenerateTest, TheAnswerIsCutAtTheNumberOfTokensAskedFor) {
  options_.max_tokens = 3;
  const Generation out = answer(question("Who are you?"));
  EXPECT_EQ(out.finish, FinishReason::kLength);
  EXPECT_EQ(out.ids.size(), 3u);
  EXPECT_EQ(out.decode_steps, 2);  // the last one is not fed
}

TEST_F(GenerateTest, AStopStringEndsTheAnswerBeforeIt) {
  options_.stop_strings = {" model"};
  const Generation out = answer(question("Who are you?"));
  EXPECT_EQ(out.text, "I am the Hotset demo");
  EXPECT_EQ(tokenizer_->decode(out.ids), "I am the Hotset demo model");
  EXPECT_EQ(out.finish, FinishReason::kStop);
}

TEST_F(GenerateTest, AFullContextEndsTheAnswerAndSaysSo) {
  use(open(24));
  const auto prompt = question("Who are you?");
  const Generation out = answer(prompt);
  EXPECT_EQ(out.finish, FinishReason::kContext);
  EXPECT_EQ(session_->position(), 24);
  EXPECT_EQ(std::ssize(out.ids), 24 - std::ssize(prompt) + 1);
}

TEST_F(GenerateTest, APromptLongerThanTheContextIsAnErrorThatNamesBoth) {
  use(open(8));
  try {
    answer(question("Who are you?"));
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                testing::AllOf(testing::HasSubstr("context of 8"), testing::HasSubstr("--ctx")));
  }
}

TEST_F(GenerateTest, CancelledBetweenTokensKeepsWhatThereIs) {
  int tokens = 0;
  const Generation out = answer(question("Who are you?"),
                                {[&](std::string_view) { ++tokens; }, [&] { return tokens >= 3; }});
  EXPECT_EQ(out.finish, FinishReason::kCancelled);
  EXPECT_EQ(out.ids.size(), 3u);
}

TEST_F(GenerateTest, CancelledInThePromptLeavesAnEmptySessionThatWorks) {
  answer(question("Who are you?"));
  const Generation out = answer(question("What is 2+2?"), {{}, [] { return true; }});
  EXPECT_EQ(out.finish, FinishReason::kCancelled);
  EXPECT_TRUE(out.ids.empty());
  EXPECT_EQ(session_->position(), 0);
  EXPECT_EQ(answer(question("What is 2+2?")).text, "4");
}

}  // namespace
}  // namespace hotset
