// Chat templates are recognised by inspecting the model's Jinja text and rendered natively; one
// that is not recognised is an Error that names the ways out (--raw, --chat-template NAME).
#pragma once

#include <string>
#include <vector>

#include "runtime/tokenizer/tokenizer.h"

namespace hotset {

struct ChatMessage {
  std::string role;  // system, user, assistant
  std::string content;
};

class ChatTemplate {
 public:
  // By name: "chatml". Throws Error listing the known names.
  static ChatTemplate named(const std::string& name);
  // By the Jinja text. Throws Error if the family is not known (or the text is empty).
  static ChatTemplate recognise(const std::string& jinja);

  const std::string& name() const { return name_; }
  // Ids of messages[first..] as they continue a conversation whose earlier messages were fed
  // already; ends with the generation prompt. Role markers are parsed as special tokens, contents
  // are plain text. `first` > 0 and messages[first-1] an assistant's answer: begins with the
  // answer's end marker and newline (the sampled end token was never fed).
  std::vector<int32_t> encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                              size_t first) const;
  // Texts whose ids end an answer ("<|im_end|>", "<|endoftext|>"); those the tokenizer has are stop
  // tokens.
  std::vector<std::string> stop_texts() const;

 private:
  explicit ChatTemplate(std::string name) : name_(std::move(name)) {}
  std::string name_;
};

}  // namespace hotset
