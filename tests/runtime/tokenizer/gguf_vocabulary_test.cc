// The vocabulary of GGUF files: equal to that of the folder they were made from, and bad ones
// refused with the key.
#include "runtime/tokenizer/gguf_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "kernels/check.h"
#include "runtime/tokenizer/tokenizer.h"

namespace hotset {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const std::string kBad = HOTSET_SOURCE_DIR "/tests/data/bad/";

std::string refusal(const std::string& path) {
  try {
    vocabulary_from_gguf(GgufFile(path));
  } catch (const Error& error) {
    return error.what();
  }
  return "not refused";
}

std::string good_bytes() {
  std::ifstream good(kBad + "good/model.gguf", std::ios::binary);
  return {std::istreambuf_iterator<char>(good), {}};
}

class TemporaryGguf {
 public:
  explicit TemporaryGguf(const std::string& bytes)
      : path_(testing::TempDir() + "/changed." + std::to_string(std::random_device()()) + ".gguf") {
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~TemporaryGguf() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The good file with the first `from` replaced by `to`, which is as long.
std::string refusal_of_changed(const std::string& from, const std::string& to) {
  std::string bytes = good_bytes();
  bytes.replace(bytes.find(from), from.size(), to);
  return refusal(TemporaryGguf(bytes).path());
}

// The good file with another type for one token. After the key come the kind of value, the kind of
// entry and the count, then 4 bytes an entry.
TemporaryGguf with_token_type(size_t id, char type) {
  const std::string key = "tokenizer.ggml.token_type";
  std::string bytes = good_bytes();
  bytes[bytes.find(key) + key.size() + 16 + 4 * id] = type;
  return TemporaryGguf(bytes);
}

TEST(GgufVocabularyTest, EqualsTheVocabularyOfTheFolder) {
  const Vocabulary gguf = vocabulary_from_gguf(GgufFile(kBad + "good/model.gguf"));
  const Vocabulary folder = read_tokenizer_json(kBad + "good/hf/tokenizer.json", 0);
  EXPECT_EQ(gguf.tokens, folder.tokens);
  EXPECT_EQ(gguf.merges, folder.merges);
  ASSERT_EQ(gguf.added.size(), folder.added.size());
  for (size_t i = 0; i < gguf.added.size(); ++i) {
    EXPECT_EQ(gguf.added[i].id, folder.added[i].id);
    EXPECT_EQ(gguf.added[i].text, folder.added[i].text);
    EXPECT_EQ(gguf.added[i].special, folder.added[i].special);
  }
}

TEST(GgufVocabularyTest, TheQwen2RuleNormalises) {
  const Vocabulary vocabulary = vocabulary_from_gguf(GgufFile(kBad + "good/model.gguf"));
  EXPECT_EQ(vocabulary.split, SplitRule::kQwen2);
  EXPECT_TRUE(vocabulary.nfc);
}

TEST(GgufVocabularyTest, AnUnusedTokenCanNotBeSampled) {
  const TemporaryGguf file = with_token_type(259, 5);
  const Tokenizer tokenizer(vocabulary_from_gguf(GgufFile(file.path())));
  EXPECT_FALSE(tokenizer.has_token(259));
  EXPECT_EQ(tokenizer.find_added("<|im_end|>"), -1);
}

TEST(GgufVocabularyTest, UserDefinedTokensAreAddedButNotSpecial) {
  const TemporaryGguf file = with_token_type(259, 4);
  const Tokenizer tokenizer(vocabulary_from_gguf(GgufFile(file.path())));
  EXPECT_EQ(tokenizer.encode("<|im_end|>", SpecialTokens::kPlainText), (std::vector<int32_t>{259}));
}

TEST(GgufVocabularyTest, RefusesATokenTypeThatIsNotKnown) {
  EXPECT_THAT(refusal(with_token_type(7, 9).path()), HasSubstr("tokenizer.ggml.token_type"));
}

TEST(GgufVocabularyTest, RefusesBadFilesWithTheKey) {
  const std::pair<const char*, const char*> files[] = {
      {"merges_missing", "tokenizer.ggml.merges"},
      {"merge_without_space", "tokenizer.ggml.merges"},
      {"token_types_too_few", "tokenizer.ggml.token_type"},
      {"eos_out_of_range", "tokenizer.ggml.eos_token_id"},
  };
  for (const auto& [name, key] : files) {
    const std::string file = std::string(name) + ".gguf";
    EXPECT_THAT(refusal(kBad + "gguf/" + file), AllOf(HasSubstr(file), HasSubstr(key)));
  }
}

TEST(GgufVocabularyTest, PrintsAnUnknownRuleOrModel) {
  EXPECT_THAT(refusal_of_changed("qwen2", "walru"),
              AllOf(HasSubstr("tokenizer.ggml.pre"), HasSubstr("walru")));
  EXPECT_THAT(refusal_of_changed("gpt2", "bert"),
              AllOf(HasSubstr("tokenizer.ggml.model"), HasSubstr("bert")));
}

}  // namespace
}  // namespace hotset
