// Whole tokenizers: equal to the reference implementation on its recorded encodings, lossless on
// anything, and linear on text made to be slow.
#include "runtime/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/check.h"
#include "runtime/tokenizer/normalize.h"
#include "tests/runtime/tokenizer/gzip_file.h"
#include "tests/runtime/tokenizer/tiny_vocabulary.h"

namespace hotset {
namespace {

const std::string kData = HOTSET_SOURCE_DIR "/tests/data/tokenizers/";

Tokenizer load(const std::string& name) {
  const std::string path =
      testing::TempDir() + "/" + name + "." + std::to_string(std::random_device()()) + ".json";
  std::ofstream(path, std::ios::binary) << gunzip(kData + name + ".json.gz");
  Vocabulary vocabulary = read_tokenizer_json(path, 0);
  std::filesystem::remove(path);
  return Tokenizer(std::move(vocabulary));
}

class ReferenceTest : public testing::TestWithParam<const char*> {};

TEST_P(ReferenceTest, EncodesAndDecodesAsTheReferenceLibraryDoes) {
  const Tokenizer tokenizer = load(GetParam());
  const auto reference = nlohmann::json::parse(gunzip(kData + "reference.json.gz"));
  const auto& rows = reference.at("tokenizers").at(GetParam());
  ASSERT_GT(rows.size(), 100u);
  for (const auto& row : rows) {
    const std::string text = row.at("text");
    const std::vector<int32_t> ids = row.at("ids");
    EXPECT_EQ(tokenizer.encode(text, SpecialTokens::kParse), ids) << row.at("text");
    EXPECT_EQ(tokenizer.encode(text, SpecialTokens::kPlainText),
              row.at("ids_no_special").get<std::vector<int32_t>>())
        << row.at("text");
    EXPECT_EQ(tokenizer.decode(ids, true), row.at("decoded").get<std::string>());
  }
}

TEST_P(ReferenceTest, EncodesAdversarialTextInLinearTime) {
  const Tokenizer tokenizer = load(GetParam());
  const std::string units[] = {"a",
                               " ",
                               "7",
                               "\n",
                               " \n",
                               "A",
                               "'",
                               "<|im_",
                               "<",
                               "\u0301",
                               "a\u0301",
                               "\u3042",
                               "\u0316\u0301",  // marks in the wrong order: NFC has to sort them
                               "\u0f73",
                               "\xff",
                               "\xe3\x81"};
  for (const std::string& unit : units) {
    std::string text;
    while (text.size() < 200'000) text += unit;
    const std::clock_t start = std::clock();  // of this process: the machine may be busy
    EXPECT_FALSE(tokenizer.encode(text, SpecialTokens::kParse).empty());
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, 2.0) << "repeated: " << testing::PrintToString(unit);
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, ReferenceTest,
                         testing::Values("qwen3", "gptoss", "deepseek_v3"),
                         [](const auto& info) { return std::string(info.param); });

std::string utf8(char32_t c) {
  std::string out;
  if (c < 0x80) return {static_cast<char>(c)};
  const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  out += static_cast<char>((0xF00 >> more) | (c >> (6 * more)));
  for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80 | ((c >> (6 * i)) & 0x3F));
  return out;
}

// Mostly from blocks where splitting and normalising have work to do; no lone surrogates.
std::string random_text(std::mt19937& random) {
  constexpr char32_t kBlocks[][2] = {
      {0, 0x7F},        {0, 0x7F},        {0x20, 0x20},     {0x9, 0xD},        {0x30, 0x39},
      {0xA0, 0x17F},    {0x300, 0x36F},   {0xF40, 0xF8F},   {0x1100, 0x11FF},  {0x1E00, 0x1EFF},
      {0x2000, 0x206F}, {0x3040, 0x30FF}, {0xAC00, 0xAC40}, {0x1F600, 0x1F64F}};
  std::string text;
  const auto stretches = random() % 12;
  for (size_t i = 0; i < stretches; ++i) {
    const auto& [low, high] = kBlocks[random() % std::size(kBlocks)];
    for (size_t k = random() % 8; k > 0; --k) {
      text += utf8(low + static_cast<char32_t>(random()) % (high - low + 1));
    }
  }
  return text;
}

std::string random_bytes(std::mt19937& random) {
  std::string bytes(random() % 40, '\0');
  for (char& byte : bytes)
    byte = static_cast<char>(random() % 4 == 0 ? 0xE0 + random() % 32 : random());
  return bytes;
}

constexpr SplitRule kRules[] = {SplitRule::kGpt2, SplitRule::kQwen2, SplitRule::kGpt4o,
                                SplitRule::kDeepseekV3};

TEST(TokenizerTest, DecodingGivesBackAnyTextUpToNormalisation) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const SplitRule rule : kRules) {
    Vocabulary vocabulary = tiny_vocabulary();
    vocabulary.split = rule;
    const Tokenizer plain(vocabulary);
    vocabulary.nfc = true;
    const Tokenizer normalising(std::move(vocabulary));
    for (int i = 0; i < 2000; ++i) {
      const std::string text = i % 4 == 0 ? random_bytes(random) : random_text(random);
      EXPECT_EQ(plain.decode(plain.encode(text, SpecialTokens::kPlainText)), text);
      EXPECT_EQ(normalising.decode(normalising.encode(text, SpecialTokens::kPlainText)),
                to_nfc(text));
      if (HasFailure()) return;
    }
  }
}

TEST(TokenizerTest, InvalidBytesComeBackUnchangedThroughNormalisation) {
  Vocabulary vocabulary = tiny_vocabulary();
  vocabulary.nfc = true;
  const Tokenizer tokenizer(std::move(vocabulary));
  for (const std::string text : {"\xff", "a\xc3", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xc0\x80",
                                 "e\xe3\x81 \u0301", "\x80\x80the"}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, SpecialTokens::kPlainText)), text);
  }
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("e\u0301\xff", SpecialTokens::kPlainText)),
            "\u00e9\xff");
}

using Ids = std::vector<int32_t>;

TEST(TokenizerTest, ControlTokensInPlainTextAreOrdinaryText) {
  const Tokenizer tokenizer(tiny_vocabulary());
  EXPECT_EQ(tokenizer.encode("a<|im_end|>", SpecialTokens::kParse), (Ids{'a', 260}));
  const std::string control = "<|im_end|>";
  EXPECT_EQ(tokenizer.encode(control, SpecialTokens::kPlainText),
            Ids(control.begin(), control.end()));
}

TEST(TokenizerTest, AddedTokensThatAreNotSpecialAreAlwaysRecognised) {
  const Tokenizer tokenizer(tiny_vocabulary());
  for (const auto specials : {SpecialTokens::kParse, SpecialTokens::kPlainText}) {
    EXPECT_EQ(tokenizer.encode("<<think>a", specials), (Ids{'<', 261, 'a'}));
  }
}

TEST(TokenizerTest, TheLongestAddedTokenWins) {
  Vocabulary vocabulary = tiny_vocabulary();
  vocabulary.tokens.emplace_back("<think>ing");
  vocabulary.added.push_back({264, "<think>ing", false});
  const Tokenizer tokenizer(std::move(vocabulary));
  EXPECT_EQ(tokenizer.encode("<think>ing<think>in", SpecialTokens::kPlainText),
            (Ids{264, 261, 'i', 'n'}));
}

TEST(TokenizerTest, ControlTokensDecodeToNothingUnlessAskedFor) {
  const Tokenizer tokenizer(tiny_vocabulary());
  EXPECT_EQ(tokenizer.decode({257, 258, 261}), "the<think>");
  EXPECT_EQ(tokenizer.decode({257, 258, 261}, true), "the<|endoftext|><think>");
}

TEST(TokenizerTest, AnIdWithoutATokenMayNotBeSampledAndHasNoBytes) {
  const Tokenizer tokenizer(tiny_vocabulary());
  EXPECT_TRUE(tokenizer.has_token(261));
  for (const int32_t id : {262, 264, -1, INT32_MAX}) {
    EXPECT_FALSE(tokenizer.has_token(id)) << id;
    EXPECT_EQ(tokenizer.token_bytes(id, true), "") << id;
  }
  EXPECT_EQ(tokenizer.size(), 264);
}

TEST(TokenizerTest, WholePiecesAreTakenBeforeMergingOnlyWhereTheFileSaysSo) {
  Vocabulary vocabulary = tiny_vocabulary();
  vocabulary.tokens.emplace_back("hat");  // no merge builds it
  EXPECT_EQ(Tokenizer(vocabulary).encode("hat", SpecialTokens::kPlainText), (Ids{'h', 'a', 't'}));
  vocabulary.ignore_merges = true;
  EXPECT_EQ(Tokenizer(vocabulary).encode("hat", SpecialTokens::kPlainText), (Ids{264}));
}

TEST(TokenizerTest, AWholePieceNeverBecomesAControlToken) {
  Vocabulary vocabulary = tiny_vocabulary();
  vocabulary.ignore_merges = true;
  vocabulary.tokens.emplace_back("stop");
  vocabulary.added.push_back({264, "stop", true});
  const Tokenizer tokenizer(std::move(vocabulary));
  EXPECT_EQ(tokenizer.encode("stop", SpecialTokens::kPlainText), (Ids{'s', 't', 'o', 'p'}));
}

TEST(TokenizerTest, TheLeftmostOfEqualPairsMergesFirst) {
  Vocabulary vocabulary = tiny_vocabulary();
  vocabulary.tokens.emplace_back("aa");
  vocabulary.merges.emplace_back("a", "a");
  const Tokenizer tokenizer(std::move(vocabulary));
  EXPECT_EQ(tokenizer.encode("aaa", SpecialTokens::kPlainText), (Ids{264, 'a'}));
}

TEST(TokenizerTest, RefusesAMergeOfUnknownPieces) {
  Vocabulary vocabulary = tiny_vocabulary();
  vocabulary.merges.emplace_back("wal", "rus");
  EXPECT_THROW(Tokenizer{std::move(vocabulary)}, Error);
}

TEST(TokenizerTest, RefusesAVocabularyThatLacksAByte) {
  Vocabulary vocabulary = tiny_vocabulary();
  vocabulary.tokens[7].clear();
  EXPECT_THROW(Tokenizer{std::move(vocabulary)}, Error);
}

TEST(Utf8StreamTest, PiecesPutTogetherEqualDecodingAtOnce) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int i = 0; i < 5000; ++i) {
    const std::string bytes = random_bytes(random) + random_text(random) + random_bytes(random);
    Utf8Stream whole;
    std::string at_once = whole.push(bytes);
    at_once += whole.finish();
    Utf8Stream stream;
    std::string text;
    for (size_t at = 0; at < bytes.size();) {
      const size_t length = std::min<size_t>(random() % 5, bytes.size() - at);
      text += stream.push(std::string_view(bytes).substr(at, length));
      at += length;
    }
    text += stream.finish();
    ASSERT_EQ(text, at_once) << testing::PrintToString(bytes);
  }
}

TEST(Utf8StreamTest, HoldsBackOnlyWhatCanStillBecomeACharacter) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xe3\x81"), "a");
  EXPECT_EQ(stream.push("\x82"), "\u3042");
  EXPECT_EQ(stream.push("\xff"), "\ufffd");            // begins nothing
  EXPECT_EQ(stream.push("\xed\xa0"), "\ufffd\ufffd");  // a surrogate, known at its second byte
  EXPECT_EQ(stream.push("\xf0\x9f\x98"), "");
  EXPECT_EQ(stream.push("!"), "\ufffd!");
  EXPECT_EQ(stream.push("\xf0\x9f"), "");
  EXPECT_EQ(stream.finish(), "\ufffd");
  EXPECT_EQ(stream.finish(), "");
}

}  // namespace
}  // namespace hotset
