// Text generation: a prompt goes through the engine, tokens are sampled and fed back until
// something ends it, and text is handed on as it becomes certain. Knows nothing of terminals or
// templates.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine.h"
#include "runtime/sampler.h"
#include "runtime/tokenizer/tokenizer.h"

namespace hotset {

enum class FinishReason {
  kStop,       // a stop token or a stop string
  kLength,     // as many tokens as were asked for
  kContext,    // the session is full
  kCancelled,  // the caller said so
};
const char* finish_reason_name(FinishReason reason);  // "stop", "length", "context", "cancelled"

// Finds stop strings in text that comes in pieces: holds back as many bytes as the longest of them
// could begin in, but never part of a character.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);  // empty ones never stop

  // What of the text so far is certain not to belong to a stop string, and was not returned before.
  // After a stop string: the text before it, and nothing ever after.
  std::string push(std::string_view text);
  std::string finish();  // what was held back
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  size_t hold_back_ = 0;
  std::string pending_;
  bool stopped_ = false;
};

struct GenerateOptions {
  int64_t max_tokens = INT64_MAX;
  int64_t chunk = 0;  // rows of the prompt a step; 0: the engine's
  std::vector<int32_t> stop_ids;
  std::vector<std::string> stop_strings;
};

struct Generation {
  std::string text;
  std::vector<int32_t> ids;  // without the stop token
  int64_t prompt_tokens = 0;
  int64_t decode_steps = 0;  // of `ids`, so many were fed; a next turn begins with the rest
  double ttft_ms = 0;        // until the first token was sampled
  double prefill_seconds = 0, decode_seconds = 0;
  FinishReason finish = FinishReason::kStop;

  double prefill_tps() const;
  double decode_tps() const;
};

struct GenerateCallbacks {
  std::function<void(std::string_view)> on_text;  // whole characters
  std::function<bool()> cancelled;  // looked at between layers of a prompt and between tokens
};

// Continues `session` by `prompt` (at least one token). Throws Error if it does not fit into the
// context. Cancelled while a prompt went through, it leaves the session empty (position 0). A card
// that fails meanwhile is left, where that may be (Engine::leave_card): the session is then a new
// one, and the text so far has gone through it as a prompt.
Generation generate(Engine& engine, Session& session, const Tokenizer& tokenizer, Sampler& sampler,
                    std::span<const int32_t> prompt, const GenerateOptions& options,
                    const GenerateCallbacks& callbacks);

}  // namespace hotset
