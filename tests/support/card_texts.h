// Texts of the golden models that tests of cards run: a prompt, then tokens decoded one by one.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "tests/support/engine.h"

namespace hotset::test {

// A prompt that is cheap.
constexpr int64_t kPrompt = 12, kDecoded = 10;

inline std::vector<int32_t> text_of(const std::string& model, int64_t prompt = kPrompt) {
  const std::string golden = model.starts_with("qwen3_next-a")   ? "qwen3_next-a/golden-Q4_0"
                             : model.starts_with("qwen3_next-k") ? "qwen3_next-k/golden-Q4_K_M"
                             : model.starts_with("qwen3_next-b") ? "qwen3_next-b/golden"
                                                                 : "qwen3_moe/golden-MXFP4_MOE";
  std::vector<int32_t> ids =
      Golden(data_path("models/" + golden + ".safetensors")).integers("held.ids");
  ids.resize(prompt + kDecoded);
  return ids;
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

inline ::testing::AssertionResult same_bits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << "other sizes";
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], 4) != 0) {
      return ::testing::AssertionFailure() << "logit " << i << ": " << a[i] << " and " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace hotset::test
