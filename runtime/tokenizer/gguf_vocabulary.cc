// Maps tokenizer.ggml.* to a Vocabulary.
#include "runtime/tokenizer/gguf_vocabulary.h"

#include "kernels/check.h"
#include "runtime/tokenizer/vocabulary_checks.h"
#include "runtime/weights/messages.h"

namespace hotset {
namespace {

enum TokenType : int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

[[noreturn]] void fail(const GgufFile& file, const std::string& key, const std::string& what) {
  throw Error(file.path() + ": " + key + ": " + what);
}

// A pre-tokenizer's name says nothing of normalisation and GGUF has no key for it. The reference is
// the Hugging Face tokenizer that the file was made from: Qwen's normalises to NFC, and so do we.
// It also is what knows ignore_merges, which gpt-oss sets.
void read_rules(const GgufFile& file, Vocabulary& vocabulary) {
  const std::string& model = file.string("tokenizer.ggml.model");
  if (model != "gpt2") {
    fail(file, "tokenizer.ggml.model",
         "found \"" + printable(model) + "\", expected \"gpt2\" (byte-level BPE)");
  }
  const std::string& pre = file.string("tokenizer.ggml.pre");
  if (pre == "qwen2") {
    vocabulary.split = SplitRule::kQwen2;
    vocabulary.nfc = true;
  } else if (pre == "gpt-4o") {
    vocabulary.split = SplitRule::kGpt4o;
    vocabulary.ignore_merges = true;
  } else if (pre == "deepseek-v3") {
    vocabulary.split = SplitRule::kDeepseekV3;
  } else {
    fail(file, "tokenizer.ggml.pre",
         "found \"" + printable(pre) + "\", expected qwen2, gpt-4o or deepseek-v3");
  }
}

void read_tokens(const GgufFile& file, Vocabulary& vocabulary) {
  const char* const key = "tokenizer.ggml.token_type";
  vocabulary.tokens = file.strings("tokenizer.ggml.tokens");
  const std::vector<int64_t> types = file.integers(key);
  if (types.size() != vocabulary.tokens.size()) {
    fail(file, key,
         "found " + std::to_string(types.size()) + " entries, expected " +
             std::to_string(vocabulary.tokens.size()) + " as in tokenizer.ggml.tokens");
  }
  for (size_t id = 0; id < types.size(); ++id) {
    std::string& token = vocabulary.tokens[id];
    switch (types[id]) {
      case kNormal:
      case kUnknown:
      case kByte:
        break;
      case kControl:
      case kUserDefined:
        if (token.empty())
          fail(file, key, "token " + std::to_string(id) + " is added but has no text");
        vocabulary.added.push_back({static_cast<int32_t>(id), token, types[id] == kControl});
        break;
      case kUnused:
        token.clear();  // padding such as [PAD151669]: must never be sampled
        break;
      default:
        fail(file, key,
             "token " + std::to_string(id) + ": found type " + std::to_string(types[id]) +
                 ", expected 1 to 6");
    }
  }
}

void read_merges(const GgufFile& file, Vocabulary& vocabulary) {
  const char* const key = "tokenizer.ggml.merges";
  for (const std::string& merge : file.strings(key)) {
    auto pair = split_merge(merge);
    if (!pair) {
      fail(file, key,
           "entry " + std::to_string(vocabulary.merges.size()) + ": found \"" + printable(merge) +
               "\", expected two tokens with a space between them");
    }
    vocabulary.merges.push_back(std::move(*pair));
  }
  check_merges(vocabulary, file.path() + ": " + key);
}

int32_t read_id(const GgufFile& file, const char* key, size_t count) {
  const auto id = file.find_integer(key);
  if (!id) return -1;
  if (*id < 0 || *id >= static_cast<int64_t>(count)) {
    fail(
        file, key,
        "found " + std::to_string(*id) + ", expected an id from 0 to " + std::to_string(count - 1));
  }
  return static_cast<int32_t>(*id);
}

}  // namespace

Vocabulary vocabulary_from_gguf(const GgufFile& file) {
  Vocabulary vocabulary;
  read_rules(file, vocabulary);
  read_tokens(file, vocabulary);
  read_merges(file, vocabulary);
  const size_t count = vocabulary.tokens.size();
  vocabulary.bos_id = read_id(file, "tokenizer.ggml.bos_token_id", count);
  vocabulary.eos_id = read_id(file, "tokenizer.ggml.eos_token_id", count);
  const char* const add_bos = "tokenizer.ggml.add_bos_token";
  vocabulary.add_bos = file.has(add_bos) && file.boolean(add_bos);
  if (vocabulary.add_bos && vocabulary.bos_id < 0) {
    fail(file, add_bos, "found true, expected tokenizer.ggml.bos_token_id beside it");
  }
  return vocabulary;
}

}  // namespace hotset
