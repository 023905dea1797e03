// What read_tokenizer_json takes from a file, and what it refuses, each by name. The files are a
// good one with one thing changed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/check.h"
#include "runtime/tokenizer/tokenizer.h"

namespace hotset {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

const std::string kGood = HOTSET_SOURCE_DIR "/tests/data/bad/good/hf/tokenizer.json";

Vocabulary read_text(const std::string& text, int64_t vocab_size = 0) {
  const std::string folder =
      testing::TempDir() + "/tokenizer_json." + std::to_string(std::random_device()());
  std::filesystem::create_directory(folder);
  const std::string path = folder + "/tokenizer.json";
  std::ofstream(path, std::ios::binary) << text;
  try {
    Vocabulary vocabulary = read_tokenizer_json(path, vocab_size);
    std::filesystem::remove_all(folder);
    return vocabulary;
  } catch (const Error&) {
    std::filesystem::remove_all(folder);
    throw;
  }
}

Vocabulary read_changed(const std::function<void(json&)>& change, int64_t vocab_size = 0) {
  json document = json::parse(std::ifstream(kGood));
  change(document);
  return read_text(document.dump(), vocab_size);
}

std::string refusal(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error& error) {
    return error.what();
  }
  return "not refused";
}

std::string refusal_of_changed(const std::function<void(json&)>& change) {
  return refusal([&] { read_changed(change); });
}

TEST(TokenizerJsonTest, ReadsTokensMergesAndAddedTokens) {
  const Vocabulary vocabulary = read_tokenizer_json(kGood, 0);
  EXPECT_EQ(vocabulary.tokens.size(), 260u);
  EXPECT_EQ(vocabulary.merges.size(), 2u);
  ASSERT_EQ(vocabulary.added.size(), 2u);
  EXPECT_EQ(vocabulary.added[1].text, "<|im_end|>");
  EXPECT_TRUE(vocabulary.added[1].special);
  EXPECT_EQ(vocabulary.split, SplitRule::kGpt2);
  EXPECT_FALSE(vocabulary.nfc);
}

TEST(TokenizerJsonTest, MergesAsStringsEqualMergesAsPairs) {
  const auto strings = read_changed([](json& d) { d["model"]["merges"] = {"t h", "th e"}; });
  EXPECT_EQ(strings.merges, read_tokenizer_json(kGood, 0).merges);
}

TEST(TokenizerJsonTest, ASequenceOfNfcIsNfcAndAnEmptyOneIsNone) {
  const auto with = [](json normalizer) {
    return read_changed([&](json& d) { d["normalizer"] = normalizer; }).nfc;
  };
  EXPECT_TRUE(with({{"type", "NFC"}}));
  EXPECT_TRUE(with({{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}}));
  EXPECT_FALSE(with({{"type", "Sequence"}, {"normalizers", json::array()}}));
}

TEST(TokenizerJsonTest, AnIdMustBeBelowTheModelsVocabulary) {
  EXPECT_NO_THROW(read_tokenizer_json(kGood, 260));
  EXPECT_THAT(refusal([] { read_tokenizer_json(kGood, 259); }),
              AllOf(HasSubstr("tokenizer.json"), HasSubstr("259"), HasSubstr("vocab_size")));
}

TEST(TokenizerJsonTest, AShortFileCannotAskForHugeMemory) {
  const auto change = [](json& d) { d["model"]["vocab"]["the"] = 2'000'000'000; };
  EXPECT_THAT(refusal([&] { read_changed(change, int64_t{1} << 40); }), HasSubstr("2000000000"));
}

TEST(TokenizerJsonTest, RefusesDeepNesting) {
  const std::string brackets(100'000, '[');
  EXPECT_THAT(refusal([&] { read_text(brackets); }), HasSubstr("nested"));
}

TEST(TokenizerJsonTest, RefusesAKeyThatOccursTwice) {
  EXPECT_THAT(refusal([] { read_text(R"({"model": {}, "model": {}})"); }), HasSubstr("twice"));
}

TEST(TokenizerJsonTest, RefusesTheBadFilesOfTheManifest) {
  const std::string root = HOTSET_SOURCE_DIR "/tests/data/bad/";
  int count = 0;
  const json manifest = json::parse(std::ifstream(root + "manifest.json"));
  for (const json& bad : manifest.at("cases")) {
    const std::string path = bad.at("path");
    if (path.find("hf/tokenizer_") == std::string::npos) continue;
    ++count;
    const std::string message =
        refusal([&] { read_tokenizer_json(root + path + "/tokenizer.json", 260); });
    for (const json& mention : bad.at("mention")) {
      EXPECT_THAT(message, HasSubstr(mention.get<std::string>()));
    }
  }
  EXPECT_EQ(count, 4);
}

struct Refused {
  const char* what;
  void (*change)(json&);
  std::vector<const char*> mentions;
};

const Refused kRefused[] = {
    {"another model", [](json& d) { d["model"]["type"] = "Unigram"; }, {"model.type", "Unigram"}},
    {"no model", [](json& d) { d.erase("model"); }, {"model", "missing"}},
    {"vocab as a list", [](json& d) { d["model"]["vocab"] = json::array(); }, {"model.vocab"}},
    {"negative id", [](json& d) { d["model"]["vocab"]["the"] = -5; }, {"model.vocab", "-5"}},
    {"id as text", [](json& d) { d["model"]["vocab"]["the"] = "5"; }, {"model.vocab", "the"}},
    {"one id twice", [](json& d) { d["model"]["vocab"]["the"] = 5; }, {"model.vocab", "5"}},
    {"one-word merge", [](json& d) { d["model"]["merges"][1] = "the"; }, {"merges", "entry 1"}},
    {"merge of three",
     [](json& d) {
       d["model"]["merges"][1] = {"t", "h", "e"};
     },
     {"merges", "entry 1"}},
    {"byte fallback", [](json& d) { d["model"]["byte_fallback"] = true; }, {"byte_fallback"}},
    {"subword prefix",
     [](json& d) { d["model"]["continuing_subword_prefix"] = "##"; },
     {"continuing_subword_prefix"}},
    {"dropout", [](json& d) { d["model"]["dropout"] = 0.1; }, {"dropout"}},
    {"another normaliser",
     [](json& d) {
       d["normalizer"] = {{"type", "NFKC"}};
     },
     {"normalizer.type", "NFKC"}},
    {"no pre-tokenizer", [](json& d) { d["pre_tokenizer"] = nullptr; }, {"pre_tokenizer"}},
    {"another pre-tokenizer",
     [](json& d) {
       d["pre_tokenizer"] = {{"type", "Metaspace"}};
     },
     {"pre_tokenizer.type", "Metaspace"}},
    {"prefix space",
     [](json& d) { d["pre_tokenizer"]["add_prefix_space"] = true; },
     {"add_prefix_space"}},
    {"unknown pattern",
     [](json& d) {
       d["pre_tokenizer"] = {{"type", "Split"},
                             {"pattern", {{"Regex", "walrus+"}}},
                             {"behavior", "Isolated"},
                             {"invert", false}};
     },
     {"pre_tokenizer", "walrus+"}},
    {"added token that strips",
     [](json& d) { d["added_tokens"][1]["lstrip"] = true; },
     {"added_tokens[1].lstrip"}},
    {"added token without text",
     [](json& d) { d["added_tokens"][0]["content"] = ""; },
     {"added_tokens[0].content"}},
    {"post-processor that adds tokens",
     [](json& d) {
       d["post_processor"] = {{"type", "TemplateProcessing"}};
     },
     {"post_processor.type", "TemplateProcessing"}},
};

TEST(TokenizerJsonTest, RefusesByNameWhatWouldChangeTheIds) {
  for (const Refused& refused : kRefused) {
    const std::string message = refusal_of_changed(refused.change);
    EXPECT_THAT(message, HasSubstr("tokenizer.json")) << refused.what;
    for (const char* mention : refused.mentions) {
      EXPECT_THAT(message, HasSubstr(mention)) << refused.what;
    }
  }
}

}  // namespace
}  // namespace hotset
