// Reads tokenizer.json of Hugging Face. Everything in it that would change the ids is either
// understood exactly or refused by name.
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/vocabulary_checks.h"
#include "runtime/weights/json.h"
#include "runtime/weights/messages.h"

namespace hotset {
namespace {

using nlohmann::json;

constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt4oPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepseekNumbers = R"(\p{N}{1,3})";
constexpr const char* kDeepseekCjk = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
// DeepSeek's file has carriage return and newline themselves inside the brackets.
constexpr const char* kDeepseekRest =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}"
    "\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

// The limit on ids, and what sets it, for messages.
struct IdLimit {
  int64_t end = 0;
  std::string reason;
};

// Ids may have gaps, but a short file must not make us allocate for a huge one.
IdLimit id_limit(size_t entries, int64_t model_vocab_size) {
  const auto by_file = static_cast<int64_t>(2 * entries + 65536);
  if (model_vocab_size > 0 && model_vocab_size <= by_file) {
    return {model_vocab_size, "the model's vocab_size"};
  }
  return {by_file, "what a file with " + std::to_string(entries) + " tokens can need"};
}

const json& required(const JsonObject& object, const std::string& key, bool is_right_type,
                     const char* expected) {
  const json* value = object.find(key);
  if (value == nullptr) object.fail(key, std::string("missing, expected ") + expected);
  if (!is_right_type) {
    object.fail(key, std::string("found ") + value->type_name() + ", expected " + expected);
  }
  return *value;
}

const json& required_array(const JsonObject& object, const std::string& key) {
  const json* value = object.find(key);
  return required(object, key, value != nullptr && value->is_array(), "an array");
}

const json& required_object(const JsonObject& object, const std::string& key) {
  const json* value = object.find(key);
  return required(object, key, value != nullptr && value->is_object(), "an object");
}

std::string required_string(const JsonObject& object, const std::string& key) {
  const auto value = object.find_string(key);
  if (!value) object.fail(key, "missing, expected a string");
  return *value;
}

void put_token(Vocabulary& vocabulary, const JsonObject& where, const std::string& key,
               const std::string& token, int64_t id, const IdLimit& limit) {
  if (id < 0 || id >= limit.end) {
    where.fail(key, "token \"" + printable(token) + "\": found id " + std::to_string(id) +
                        ", expected one from 0 to " + std::to_string(limit.end - 1) + " (" +
                        limit.reason + ")");
  }
  const auto index = static_cast<size_t>(id);
  if (index >= vocabulary.tokens.size()) vocabulary.tokens.resize(index + 1);
  std::string& slot = vocabulary.tokens[index];
  if (!slot.empty() && slot != token) {
    where.fail(key, "token \"" + printable(token) + "\": found id " + std::to_string(id) +
                        ", which \"" + printable(slot) + "\" has already");
  }
  slot = token;
}

void read_vocab(const JsonObject& model, const IdLimit& limit, Vocabulary& vocabulary) {
  for (const auto& [token, id] : required_object(model, "vocab").items()) {
    if (token.empty()) model.fail("vocab", "found an empty token");
    if (!id.is_number_integer()) {
      model.fail("vocab", "token \"" + printable(token) + "\": found " + id.type_name() +
                              ", expected an integer");
    }
    put_token(vocabulary, model, "vocab", token, id.get<int64_t>(), limit);
  }
}

void read_merges(const JsonObject& model, Vocabulary& vocabulary) {
  const json& merges = required_array(model, "merges");
  vocabulary.merges.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const json& merge = merges[rank];
    if (merge.is_string()) {
      if (auto pair = split_merge(merge.get_ref<const std::string&>())) {
        vocabulary.merges.push_back(std::move(*pair));
        continue;
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      vocabulary.merges.emplace_back(merge[0], merge[1]);
      continue;
    }
    model.fail("merges", "entry " + std::to_string(rank) + ": found " + printable(merge.dump()) +
                             ", expected \"a b\" or [\"a\", \"b\"]");
  }
}

void read_model(const JsonObject& model, const IdLimit& limit, Vocabulary& vocabulary) {
  const std::string type = required_string(model, "type");
  if (type != "BPE") model.fail("type", "found \"" + printable(type) + "\", expected \"BPE\"");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::string text = model.find_string(key).value_or("");
    if (!text.empty()) model.fail(key, "found \"" + printable(text) + "\", expected none");
  }
  if (model.find_boolean("byte_fallback").value_or(false)) {
    model.fail("byte_fallback", "found true, expected false (byte-level BPE)");
  }
  if (model.find_number("dropout").value_or(0) != 0) {
    model.fail("dropout", "found a rate, expected none: ids must not be random");
  }
  vocabulary.ignore_merges = model.find_boolean("ignore_merges").value_or(false);
  read_vocab(model, limit, vocabulary);
  read_merges(model, vocabulary);
}

void read_added(const JsonObject& root, const json& added, const IdLimit& limit,
                Vocabulary& vocabulary) {
  for (size_t i = 0; i < added.size(); ++i) {
    const JsonObject item(added[i], root.file(), "added_tokens[" + std::to_string(i) + "].");
    AddedToken token;
    token.text = required_string(item, "content");
    if (token.text.empty()) item.fail("content", "found \"\", expected a text");
    for (const char* key : {"lstrip", "rstrip", "single_word"}) {
      if (item.find_boolean(key).value_or(false)) {
        item.fail(key, "found true, expected false: such matching is not supported");
      }
    }
    const int64_t id = item.integer("id");
    put_token(vocabulary, item, "id", token.text, id, limit);
    token.id = static_cast<int32_t>(id);
    token.special = item.find_boolean("special").value_or(false);
    vocabulary.added.push_back(std::move(token));
  }
}

bool read_nfc(const JsonObject& normalizer) {
  const std::string type = required_string(normalizer, "type");
  if (type == "NFC") return true;
  if (type != "Sequence") {
    normalizer.fail("type", "found \"" + printable(type) + "\", expected NFC or a Sequence of it");
  }
  bool nfc = false;
  for (const json& part : required_array(normalizer, "normalizers")) {
    nfc |= read_nfc(JsonObject(part, normalizer.file(), "normalizer.normalizers."));
  }
  return nfc;
}

// Appends what one pre-tokenizer does: a Split's regex, or "" for ByteLevel's own (GPT-2).
void read_split(const JsonObject& step, std::vector<std::string>& patterns) {
  const std::string type = required_string(step, "type");
  if (type == "ByteLevel") {
    if (step.find_boolean("add_prefix_space").value_or(true)) {
      step.fail("add_prefix_space", "found true, expected false");
    }
    if (step.find_boolean("use_regex").value_or(true)) patterns.emplace_back();
    return;
  }
  if (type != "Split") {
    step.fail("type", "found \"" + printable(type) + "\", expected Split or ByteLevel");
  }
  const std::string behaviour = required_string(step, "behavior");
  if (behaviour != "Isolated") {
    step.fail("behavior", "found \"" + printable(behaviour) + "\", expected \"Isolated\"");
  }
  if (step.find_boolean("invert").value_or(false)) {
    step.fail("invert", "found true, expected false");
  }
  const auto pattern = step.find_object("pattern");
  if (!pattern) step.fail("pattern", "missing, expected an object");
  patterns.push_back(required_string(*pattern, "Regex"));
}

SplitRule read_split_rule(const JsonObject& root) {
  const json& value = required_object(root, "pre_tokenizer");
  const JsonObject top(value, root.file(), "pre_tokenizer.");
  std::vector<std::string> patterns;
  if (required_string(top, "type") == "Sequence") {
    for (const json& part : required_array(top, "pretokenizers")) {
      read_split(JsonObject(part, root.file(), "pre_tokenizer.pretokenizers."), patterns);
    }
  } else {
    read_split(top, patterns);
  }
  const std::pair<SplitRule, std::vector<std::string>> known[] = {
      {SplitRule::kGpt2, {""}},
      {SplitRule::kQwen2, {kQwen2Pattern}},
      {SplitRule::kGpt4o, {kGpt4oPattern}},
      {SplitRule::kDeepseekV3, {kDeepseekNumbers, kDeepseekCjk, kDeepseekRest}},
  };
  for (const auto& [rule, expected] : known) {
    if (patterns == expected) return rule;
  }
  std::string found;
  for (const std::string& pattern : patterns) found += " \"" + printable(pattern, 500) + "\"";
  root.fail("pre_tokenizer", "found the split patterns" + found +
                                 ", expected those of gpt-2, qwen2, gpt-4o or deepseek-v3");
}

void check_post_processor(const JsonObject& root) {
  const auto post = root.find_object("post_processor");
  if (!post) return;
  const std::string type = required_string(*post, "type");
  // ByteLevel only trims offsets; the others add tokens.
  if (type != "ByteLevel") {
    post->fail("type", "found \"" + printable(type) + "\", expected ByteLevel or none");
  }
}

}  // namespace

Vocabulary read_tokenizer_json(const std::string& path, int64_t model_vocab_size) {
  const json document = read_json_file(path);
  const JsonObject root(document, path);
  const JsonObject model(required_object(root, "model"), path, "model.");
  const json no_tokens = json::array();
  const json& added =
      root.find("added_tokens") == nullptr ? no_tokens : required_array(root, "added_tokens");
  const IdLimit limit =
      id_limit(required_object(model, "vocab").size() + added.size(), model_vocab_size);

  Vocabulary vocabulary;
  read_model(model, limit, vocabulary);
  read_added(root, added, limit, vocabulary);
  check_merges(vocabulary, path + ": model.merges");
  const auto normalizer = root.find_object("normalizer");
  vocabulary.nfc = normalizer && read_nfc(*normalizer);
  vocabulary.split = read_split_rule(root);
  check_post_processor(root);
  return vocabulary;
}

}  // namespace hotset
