// The points where the split rules differ from each other or from what one would write first.
#include "runtime/tokenizer/split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hotset {
namespace {

using testing::ElementsAre;

TEST(SplitTest, SpacesBeforeAWordLeaveTheLastOneToIt) {
  for (const auto rule :
       {SplitRule::kGpt2, SplitRule::kQwen2, SplitRule::kGpt4o, SplitRule::kDeepseekV3}) {
    EXPECT_THAT(split_text(rule, "a   b"), ElementsAre("a", "  ", " b"));
    EXPECT_THAT(split_text(rule, "a   "), ElementsAre("a", "   "));
  }
}

TEST(SplitTest, NewlinesEndAtTheLastOneOfTheRun) {
  EXPECT_THAT(split_text(SplitRule::kQwen2, "a \n \n  b"), ElementsAre("a", " \n \n", " ", " b"));
  EXPECT_THAT(split_text(SplitRule::kGpt2, "a\n\nb"), ElementsAre("a", "\n", "\n", "b"));
}

TEST(SplitTest, Qwen2TakesDigitsOneByOneAndOthersThreeByThree) {
  EXPECT_THAT(split_text(SplitRule::kQwen2, "1234"), ElementsAre("1", "2", "3", "4"));
  EXPECT_THAT(split_text(SplitRule::kGpt4o, "1234"), ElementsAre("123", "4"));
  EXPECT_THAT(split_text(SplitRule::kDeepseekV3, "1234"), ElementsAre("123", "4"));
  EXPECT_THAT(split_text(SplitRule::kGpt2, " 1234"), ElementsAre(" 1234"));
}

TEST(SplitTest, ContractionsFoldCaseExceptInGpt2) {
  EXPECT_THAT(split_text(SplitRule::kQwen2, "we'LL it'\u017fx"),
              ElementsAre("we", "'LL", " it", "'\u017f", "x"));
  EXPECT_THAT(split_text(SplitRule::kGpt2, "we'LL it's"),
              ElementsAre("we", "'", "LL", " it", "'s"));
  EXPECT_THAT(split_text(SplitRule::kGpt4o, "we'LL"), ElementsAre("we'LL"));
}

TEST(SplitTest, Gpt4oCutsCamelCaseAndGivesBackUppercaseRuns) {
  EXPECT_THAT(split_text(SplitRule::kGpt4o, "camelCaseABC"), ElementsAre("camel", "Case", "ABC"));
  // U* has taken all four; W+ needs the last that is both, the ideograph.
  EXPECT_THAT(split_text(SplitRule::kGpt4o, "A\u4e00BC"), ElementsAre("A\u4e00", "BC"));
  EXPECT_THAT(split_text(SplitRule::kGpt4o, "!//\n/a"), ElementsAre("!//\n/", "a"));
}

TEST(SplitTest, AMarkAloneIsAMatchWhereMarksAreLetters) {
  EXPECT_THAT(split_text(SplitRule::kDeepseekV3, "\u0301\x01!"),
              ElementsAre("\u0301", "\x01", "!"));
  EXPECT_THAT(split_text(SplitRule::kGpt4o, "\u0301!"), ElementsAre("\u0301", "!"));
}

TEST(SplitTest, DeepseekSplitsInSequence) {
  // Each split sees only its piece: the space run before the digits ends at the end of its text.
  EXPECT_THAT(split_text(SplitRule::kDeepseekV3, "a   1"), ElementsAre("a", "   ", "1"));
  EXPECT_THAT(split_text(SplitRule::kDeepseekV3, "x\u30a2\u30fb\u4e00y"),
              ElementsAre("x", "\u30a2", "\u30fb", "\u4e00", "y"));
  EXPECT_THAT(split_text(SplitRule::kDeepseekV3, "(foo).bar"), ElementsAre("(foo", ").", "bar"));
}

TEST(SplitTest, TextThatNoAlternativeMatchesStaysOnePiece) {
  EXPECT_THAT(split_text(SplitRule::kDeepseekV3, "!\x01\x02 !"),
              ElementsAre("!", "\x01\x02", " !"));
}

TEST(SplitTest, BytesThatAreNotUtf8CountAsSymbols) {
  EXPECT_THAT(split_text(SplitRule::kQwen2, "a \xff\xfe b"), ElementsAre("a", " \xff\xfe", " b"));
}

}  // namespace
}  // namespace hotset
