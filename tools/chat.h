// The interactive chat of `hotset run`: a conversation whose history stays in one session, so that
// a turn feeds only what is new.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/generate.h"
#include "runtime/tokenizer/chat_template.h"
#include "tools/model_options.h"

namespace hotset {

class Chat {
 public:
  Chat(LoadedModel& model, const ChatTemplate& format, std::optional<std::string> system,
       const GenerateOptions& options, Sampler& sampler);

  // Until the end of input, or Ctrl-C while nothing is being answered (then Interrupted).
  void run();

 private:
  bool obey(const std::string& command);
  void answer(const std::string& text);
  void reset();
  void forget_turn();

  LoadedModel& model_;
  const ChatTemplate& format_;
  const std::optional<std::string> system_;
  const GenerateOptions options_;
  Sampler& sampler_;
  Session session_;
  std::vector<ChatMessage> messages_;
  size_t fed_messages_ = 0;     // in the session
  std::vector<int32_t> unfed_;  // the end of the last answer that the session has not seen
  std::optional<Generation> last_;
};

// Writes to stdout at once.
void write_text(std::string_view text);

// One line: times, rates, and what the expert cache did.
std::string describe_generation(const Generation& generation, const Engine& engine, double load_ms);

}  // namespace hotset
