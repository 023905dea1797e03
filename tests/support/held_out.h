// Texts of the golden models, and what is expected of their logits: the same bits.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "tests/support/engine.h"

namespace hotset::test {

// The first `count` tokens of a text that the model was not trained on.
inline std::vector<int32_t> held_out(const std::string& model, int64_t count) {
  const std::string golden = model.starts_with("qwen3_next-a")   ? "qwen3_next-a/golden-Q4_0"
                             : model.starts_with("qwen3_next-k") ? "qwen3_next-k/golden-Q4_K_M"
                             : model.starts_with("qwen3_next-b") ? "qwen3_next-b/golden"
                                                                 : "qwen3_moe/golden-MXFP4_MOE";
  std::vector<int32_t> ids =
      Golden(data_path("models/" + golden + ".safetensors")).integers("held.ids");
  ids.resize(count);
  return ids;
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

// Where the session is, the same tokens have other logits after themselves, and the same ones after
// what was before is restored.
inline void expect_to_continue_from_a_snapshot(Engine& engine, Session& session) {
  const Snapshot snapshot = session.snapshot();
  const int64_t position = session.position();
  const auto step = [&] {
    const std::span<const float> logits = feed(engine, session, {{5, 6, 7}});
    return std::vector<float>(logits.begin(), logits.end());
  };
  const std::vector<float> first = step();
  EXPECT_FALSE(same_bits(step(), first));
  session.restore(snapshot);
  EXPECT_EQ(session.position(), position);
  EXPECT_TRUE(same_bits(step(), first));
}

}  // namespace hotset::test
