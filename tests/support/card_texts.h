// Texts of the golden models that tests of cards run: a prompt, then tokens decoded one by one.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tests/support/held_out.h"

namespace hotset::test {

// A prompt that is cheap.
constexpr int64_t kPrompt = 12, kDecoded = 10;

inline std::vector<int32_t> text_of(const std::string& model, int64_t prompt = kPrompt) {
  return held_out(model, prompt + kDecoded);
}

// Logits of a prompt and of the tokens that are decoded after it, one by one.
inline std::vector<float> logits_of(Engine& engine, std::span<const int32_t> ids) {
  Session session = engine.open_session();
  const int64_t prompt = std::ssize(ids) - kDecoded;
  std::vector<float> logits;
  const auto keep = [&](std::span<const float> step) {
    logits.insert(logits.end(), step.begin(), step.end());
  };
  feed(engine, session, ids.first(prompt), 0, keep);
  for (int64_t i = prompt; i < std::ssize(ids); ++i) {
    feed(engine, session, ids.subspan(i, 1), 0, keep);
  }
  return logits;
}

}  // namespace hotset::test
