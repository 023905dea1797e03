// Recognition and native rendering of chat template families.
#include "runtime/tokenizer/chat_template.h"

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr const char* kChatMl = "chatml";
constexpr const char* kChatMlStart = "<|im_start|>";
constexpr const char* kChatMlEnd = "<|im_end|>";
constexpr const char* kKnownNames = "known: chatml";

int32_t marker_id(const Tokenizer& tokenizer, const char* marker) {
  const int32_t id = tokenizer.find_added(marker);
  if (id < 0) {
    throw Error(
        std::string("chat template chatml: found no token ") + marker +
        " in the model's tokenizer, expected one; use --raw, or --chat-template NAME with a "
        "template that fits the model");
  }
  return id;
}

void append(std::vector<int32_t>& ids, const std::vector<int32_t>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
}

}  // namespace

ChatTemplate ChatTemplate::named(const std::string& name) {
  if (name != kChatMl) {
    throw Error("--chat-template: found \"" + name + "\", expected a name that is built in (" +
                kKnownNames + ")");
  }
  return ChatTemplate(name);
}

ChatTemplate ChatTemplate::recognise(const std::string& jinja) {
  // A template that mentions enable_thinking (Qwen3) is plain ChatML as long as thinking is left to
  // the model: its generation prompt differs only where the caller switches thinking off.
  if (jinja.find(kChatMlStart) != std::string::npos) return ChatTemplate(kChatMl);
  throw Error(
      std::string("chat template: ") +
      (jinja.empty() ? "the model has none" : "the model's is of no known family") +
      ", expected one of the families that are built in (" + kKnownNames +
      "); use --raw to send text without a template, or --chat-template NAME to choose one");
}

std::vector<int32_t> ChatTemplate::encode(const Tokenizer& tokenizer,
                                          const std::vector<ChatMessage>& messages,
                                          size_t first) const {
  HOTSET_CHECK(first <= messages.size(), "messages before `first` were fed already");
  const int32_t start = marker_id(tokenizer, kChatMlStart), end = marker_id(tokenizer, kChatMlEnd);
  const auto plain = [&](const std::string& text) {
    return tokenizer.encode(text, SpecialTokens::kPlainText);
  };
  const auto end_message = [&](std::vector<int32_t>& ids) {
    ids.push_back(end);
    append(ids, plain("\n"));
  };
  std::vector<int32_t> ids;
  if (first > 0 && messages[first - 1].role == "assistant") end_message(ids);
  for (size_t i = first; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    if (role != "system" && role != "user" && role != "assistant") {
      throw Error("chat message " + std::to_string(i) + ": role: found \"" + role +
                  "\", expected system, user or assistant");
    }
    ids.push_back(start);
    // In one text: a content that begins with a newline merges with the role's, as it does in the
    // reference, which encodes the rendered whole.
    append(ids, plain(role + "\n" + content));
    end_message(ids);
  }
  ids.push_back(start);
  append(ids, plain("assistant\n"));
  return ids;
}

std::vector<std::string> ChatTemplate::stop_texts() const {
  return {kChatMlEnd, "<|endoftext|>"};
}

}  // namespace hotset
