// Whole checkpoints, quantised by the libraries that define their formats, against what
// transformers computes in float32 from the decoded weights (tests/data/quantised): as --reference
// computes, and packed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "tests/support/engine.h"

namespace hotset::test {
namespace {

std::vector<std::string> checkpoints() {  // "bnb_nf4/qwen3_next"
  std::vector<std::string> names;
  for (const auto& format : std::filesystem::directory_iterator(data_path("quantised"))) {
    for (const char* architecture : {"qwen3_next", "qwen3_moe"}) {
      if (!std::filesystem::exists(format.path() / architecture / "config.json")) continue;
      names.push_back(format.path().filename().string() + "/" + architecture);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

class QuantisedCheckpointTest : public testing::TestWithParam<std::string> {
 protected:
  static std::unique_ptr<Engine> open(bool is_reference, int threads = 2,
                                      int64_t expert_bytes = INT64_MAX) {
    EngineOptions options;
    options.threads = threads;
    options.context = 128;
    options.kv_type = is_reference ? KvType::kF32 : KvType::kF16;
    options.expert_bytes = expert_bytes;
    const Engine::Progress silent = [](int64_t, int64_t, const char*) {};
    ModelDescription model = open_model(data_path("quantised/" + GetParam()));
    if (is_reference) model = reference(std::move(model));
    auto engine = std::make_unique<Engine>(std::move(model), options, silent);
    engine->wait_until_resident(silent);
    return engine;
  }

  static Golden golden() {
    const std::string name = GetParam();
    const size_t slash = name.find('/');
    return Golden(data_path("quantised/" + name.substr(0, slash) + "/expected/" +
                            name.substr(slash + 1) + ".safetensors"));
  }
};

std::vector<float> last(const std::vector<float>& all, size_t count) {
  return {all.end() - static_cast<int64_t>(count), all.end()};
}

std::vector<int32_t> continued(Engine& engine, std::span<const int32_t> ids, int64_t count) {
  Session session = engine.open_session();
  std::span<const float> logits = feed(engine, session, ids);
  std::vector<int32_t> out;
  while (std::ssize(out) < count) {
    out.push_back(
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    logits = feed(engine, session, {&out.back(), 1});
  }
  return out;
}

// transformers in float64 differs by 7e-6 from the golden; a float32 engine is allowed 5e-4.
TEST_P(QuantisedCheckpointTest, ReferenceArithmeticGivesTransformersLogitsExpertsAndTokens) {
  const auto engine = open(true);
  const Golden expected = golden();
  for (const std::string p : {"p5", "p33", "p90"}) {
    Recorder seen(engine->config());
    const std::vector<float> logits = all_logits(*engine, expected.integers(p + ".ids"), 0, &seen);
    const std::vector<float> want = expected.floats(p + ".logits");
    const std::vector<float> found = last(logits, want.size());
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(found[i], want[i], 5e-4) << p << " " << i;
    if (p != "p33") continue;
    const std::vector<int32_t> experts = expected.integers("p33.experts");
    const std::vector<float> weights = expected.floats("p33.weights");
    std::vector<int32_t> picked;
    std::vector<float> weighed;
    for (const auto& layer : seen.experts) picked.insert(picked.end(), layer.begin(), layer.end());
    for (const auto& layer : seen.weights)
      weighed.insert(weighed.end(), layer.begin(), layer.end());
    EXPECT_EQ(picked, experts);
    for (size_t i = 0; i < weights.size(); ++i) ASSERT_NEAR(weighed[i], weights[i], 1e-4);
  }
  const std::vector<int32_t> tokens = expected.integers("greedy.tokens");
  EXPECT_EQ(continued(*engine, expected.integers("greedy.ids"), std::ssize(tokens)), tokens);
}

// The error that 8-bit activations are to make, squared and relative, in logits of `rows` positions
// in which `differing` picks of experts are others than in float32.
//   A step of max / 127, rounded, has an error of step / sqrt(12), and of 32 Gaussians the square
//   of
// the largest is 4.9 on average: e = sqrt(4.9) / 127 / sqrt(12) = 5.0e-3 of the inputs; and so of a
// matrix's output, whose weights know nothing of it (those of the formats err by 1.5e-5 at most).
//   A block (of attention or experts) has at most three matrices in a row, the first two in one
// product (SwiGLU), which doubles the square of what came in: 2 E + 3 e^2. Beside i equal parts of
// the residual stream it takes E to E + (E + 3 e^2) / (i + 1): E = 1.5 n e^2 after n blocks (the
// embedding being exact), and e^2 more by the head.
//   Another expert instead of one of two, as likely, changes all of a block's output, one part of
// n + 1 of that position's stream.
double expected_square(int64_t layers, int64_t differing, int64_t rows) {
  constexpr double kInputs = 4.9 / (127.0 * 127.0 * 12.0);
  const auto blocks = static_cast<double>(2 * layers);
  return (1.5 * blocks + 1) * kInputs +
         static_cast<double>(differing) / static_cast<double>(rows) / (blocks + 1);
}

int64_t differing_picks(const Recorder& a, const Recorder& b, size_t picks) {
  int64_t differing = 0;
  for (size_t layer = 0; layer < a.experts.size(); ++layer) {
    for (size_t at = 0; at < a.experts[layer].size(); at += picks) {
      const auto set = [&](const Recorder& seen) {
        const auto begin = seen.experts[layer].begin() + static_cast<int64_t>(at);
        return std::set<int32_t>(begin, begin + static_cast<int64_t>(picks));
      };
      differing += set(a) != set(b);
    }
  }
  return differing;
}

TEST_P(QuantisedCheckpointTest, PackedWeightsGiveTheSameWithinTheErrorOfEightBitActivations) {
  const auto engine = open(false), exact = open(true);
  const ModelConfig& config = engine->config();
  const Golden expected = golden();
  double squares = 0, sum_of_squares = 0;
  int64_t differing = 0, rows = 0;
  for (const std::string p : {"p5", "p33", "p90"}) {
    const std::vector<int32_t> ids = expected.integers(p + ".ids");
    const std::vector<float> want = expected.floats(p + ".logits");
    Recorder seen(config), seen_exactly(config);
    const std::vector<float> found = last(all_logits(*engine, ids, 0, &seen), want.size());
    all_logits(*exact, ids, 0, &seen_exactly);
    differing +=
        differing_picks(seen, seen_exactly, static_cast<size_t>(config.num_experts_per_tok));
    rows += std::ssize(want) / config.vocab_size;
    for (size_t i = 0; i < want.size(); ++i) {
      squares += std::pow(static_cast<double>(found[i]) - want[i], 2);
      sum_of_squares += static_cast<double>(want[i]) * want[i];
    }
  }
  EXPECT_LT(squares / sum_of_squares, expected_square(config.num_hidden_layers, differing, rows))
      << differing << " picks differ, " << rows << " rows, error "
      << std::sqrt(squares / sum_of_squares);
  const std::vector<int32_t> tokens = expected.integers("greedy.tokens");
  EXPECT_EQ(continued(*engine, expected.integers("greedy.ids"), std::ssize(tokens)), tokens);
}

TEST_P(QuantisedCheckpointTest, NeitherBudgetNorThreadsChangeABit) {
  const std::vector<int32_t> ids = golden().integers("p90.ids");
  const auto engine = open(false);
  const std::vector<float> expected = all_logits(*engine, ids);
  const std::vector<float> one_by_one = all_logits(*engine, ids, 1);
  for (const auto& [threads, budget] : {std::pair<int, int64_t>{1, INT64_MAX}, {3, 0}}) {
    const auto other = open(false, threads, budget);
    const std::vector<float> found = all_logits(*other, ids);
    EXPECT_EQ(0, std::memcmp(found.data(), expected.data(), expected.size() * sizeof(float)));
    const std::vector<float> decoded = all_logits(*other, ids, 1);
    EXPECT_EQ(0, std::memcmp(decoded.data(), one_by_one.data(), one_by_one.size() * sizeof(float)));
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, QuantisedCheckpointTest, testing::ValuesIn(checkpoints()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '/', '_');
                           return name;
                         });

}  // namespace
}  // namespace hotset::test
