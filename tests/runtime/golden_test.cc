// Forward passes against the reference results in tests/data/models (README.md there): rule 2
// (float32 arithmetic) for unquantised files, rule 5 (int8 activations, measured limits) for
// quantised ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "runtime/tokenizer/tokenizer.h"
#include "tests/support/engine.h"

namespace hotset::test {
namespace {

struct Case {
  const char* file;    // below tests/data/models
  const char* golden;  // likewise, without .safetensors
  bool is_float;
};

double standard_deviation(std::span<const float> x) {
  double sum = 0, squares = 0;
  for (const float v : x) sum += v;
  const double mean = sum / static_cast<double>(x.size());
  for (const float v : x) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / static_cast<double>(x.size()));
}

// Largest |a - b|; NaN counts as infinite.
double largest_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? HUGE_VAL : d;
  }
  return worst;
}

#define EXPECT_WITHIN_1E4_STD(actual, expected) \
  EXPECT_LE(largest_difference(actual, expected), 1e-4 * standard_deviation(expected))

std::vector<double> log_softmax(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float l : logits) sum += std::exp(l - largest);
  std::vector<double> out;
  for (const float l : logits) out.push_back(l - largest - std::log(sum));
  return out;
}

int32_t argmax(std::span<const float> x) {
  return static_cast<int32_t>(std::max_element(x.begin(), x.end()) - x.begin());
}

class GoldenTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    EngineOptions options = small_options();
    options.kv_type = GetParam().is_float ? KvType::kF32 : KvType::kF16;
    engine = open_engine(data_path(std::string("models/") + GetParam().file), options);
    vocab = engine->config().vocab_size;
  }
  // Logits of the rows that the golden keeps: the last ones.
  std::vector<float> last_rows(const std::vector<float>& logits, size_t floats) const {
    return {logits.end() - static_cast<long>(floats), logits.end()};
  }

  std::unique_ptr<Engine> engine;
  int64_t vocab = 0;
  Golden golden{data_path(std::string("models/") + GetParam().golden + ".safetensors")};
};

class FloatGoldenTest : public GoldenTest {};
class QuantisedGoldenTest : public GoldenTest {};

TEST_P(FloatGoldenTest, LogitsOfEveryPromptMatchInAnyChunking) {
  for (const int length : {1, 7, 33, 70, 150}) {
    const std::string p = "p" + std::to_string(length);
    const std::vector<float> expected = golden.floats(p + ".logits");
    for (const int64_t chunk : {0, 1, 7, 64}) {
      SCOPED_TRACE(p + " in chunks of " + std::to_string(chunk));
      const std::vector<float> logits = all_logits(*engine, golden.integers(p + ".ids"), chunk);
      EXPECT_WITHIN_1E4_STD(last_rows(logits, expected.size()), expected);
    }
  }
}

TEST_P(FloatGoldenTest, PicksAndHiddenStatesOfEveryLayerMatch) {
  const int64_t k = engine->config().num_experts_per_tok, h = engine->config().hidden_size;
  for (const int length : {33, 70, 150}) {
    const std::string p = "p" + std::to_string(length);
    Recorder seen(engine->config());
    all_logits(*engine, golden.integers(p + ".ids"), 0, &seen);
    const std::vector<int32_t> experts = golden.integers(p + ".experts");
    const std::vector<float> weights = golden.floats(p + ".weights");
    const auto layers = static_cast<size_t>(engine->config().num_hidden_layers);
    for (size_t layer = 0; layer < layers; ++layer) {
      const size_t at = layer * length * k;
      for (int t = 0; t < length; ++t) {
        const auto* row = experts.data() + at + t * k;
        const auto* ours = seen.experts[layer].data() + t * k;
        EXPECT_EQ(std::set(row, row + k), std::set(ours, ours + k)) << p << " layer " << layer;
      }
      EXPECT_LE(largest_difference(seen.weights[layer], std::span(weights).subspan(at, length * k)),
                1e-4);
    }
    if (length != 33) continue;
    const std::vector<float> hidden = golden.floats("p33.hidden");
    for (size_t layer = 0; layer <= layers; ++layer) {
      const auto expected = std::span(hidden).subspan(layer * 33 * h, 33 * h);
      SCOPED_TRACE("hidden state " + std::to_string(layer));
      EXPECT_WITHIN_1E4_STD(seen.hidden[layer], expected);
    }
  }
}

TEST_P(FloatGoldenTest, DeltaNetStatesMatchAfterPrefillAndAfterDecode) {
  Session session = engine->open_session();
  feed(*engine, session, golden.integers("p70.ids"));
  const auto compare = [&](const std::string& prefix) {
    int64_t index = 0;
    for (int64_t layer = 0; layer < engine->config().num_hidden_layers; ++layer) {
      if (!engine->description().layers[layer].is_delta_net) continue;
      const std::string suffix = "." + std::to_string(layer);
      if (golden.has(prefix + ".recurrent_state" + suffix)) {
        SCOPED_TRACE(prefix + suffix);
        EXPECT_WITHIN_1E4_STD(session.recurrent_state(index),
                              golden.floats(prefix + ".recurrent_state" + suffix));
        // The reference keeps one column more, the oldest.
        const std::vector<float> wide = golden.floats(prefix + ".conv_state" + suffix);
        const int64_t columns = golden.shape(prefix + ".conv_state" + suffix)[1];
        std::vector<float> expected;
        for (size_t i = 0; i < wide.size(); ++i) {
          if (static_cast<int64_t>(i) % columns != 0) expected.push_back(wide[i]);
        }
        EXPECT_WITHIN_1E4_STD(session.conv_state(index), expected);
      }
      ++index;
    }
  };
  compare("p70");
  if (!golden.has("p70_then_16.tokens")) return;
  for (const int32_t token : golden.integers("p70_then_16.tokens"))
    feed(*engine, session, {{token}});
  compare("p70_then_16");
}

TEST_P(FloatGoldenTest, HeldOutTextHasTheReferencesLogProbabilities) {
  const std::vector<int32_t> ids = golden.integers("held.ids");
  const std::vector<float> logits = all_logits(*engine, ids),
                           expected = golden.floats("held.logprob");
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    const auto row = log_softmax(std::span(logits).subspan(i * vocab, vocab));
    ASSERT_NEAR(row[ids[i + 1]], expected[i], 1e-3) << "position " << i;
  }
}

TEST_P(FloatGoldenTest, GreedyContinuationsAreTheReferences) {
  for (const std::string name : {"greedy_short", "greedy_long"}) {
    Session session = engine->open_session();
    std::span<const float> logits = feed(*engine, session, golden.integers(name + ".ids"));
    for (const int32_t expected : golden.integers(name + ".tokens")) {
      const int32_t token = argmax(logits);
      ASSERT_EQ(token, expected) << name << " at position " << session.position();
      logits = feed(*engine, session, {{token}});
    }
  }
}

TEST_P(FloatGoldenTest, PromptTextsEncodeToTheGoldenIds) {
  const std::string json = data_path(std::string("models/") + GetParam().golden + ".json");
  const nlohmann::json meta = nlohmann::json::parse(std::ifstream(json));
  const Tokenizer tokenizer(*engine->description().vocabulary);
  for (const auto& [length, prompt] : meta.at("prompts").items()) {
    if (!prompt.contains("text") || !golden.has("p" + length + ".ids")) continue;
    const std::vector<int32_t> ids = golden.integers("p" + length + ".ids");
    EXPECT_EQ(tokenizer.encode(prompt.at("text").get<std::string>(), SpecialTokens::kParse), ids);
    EXPECT_EQ(tokenizer.decode(ids, true), prompt.at("text").get<std::string>());
  }
}

// The figures of rule 5, from our own results.
struct Int8Figures {
  double kl_mean, kl_best_90_percent, top1_agreement, held_mean_abs_dlogprob,
      held_relative_dperplexity, greedy_steps_same;
};

TEST_P(QuantisedGoldenTest, Int8ActivationsStayWithinTheMeasuredLimits) {
  std::vector<double> kl;
  double same = 0;
  for (const int length : {1, 7, 33, 70, 150}) {
    const std::string p = "p" + std::to_string(length);
    const std::vector<float> expected = golden.floats(p + ".logits");
    const std::vector<float> ours =
        last_rows(all_logits(*engine, golden.integers(p + ".ids")), expected.size());
    for (size_t at = 0; at < expected.size(); at += vocab) {
      const auto e = std::span(expected).subspan(at, vocab), o = std::span(ours).subspan(at, vocab);
      const std::vector<double> le = log_softmax(e), lo = log_softmax(o);
      double sum = 0;
      for (int64_t v = 0; v < vocab; ++v) sum += std::exp(le[v]) * (le[v] - lo[v]);
      kl.push_back(sum);
      same += argmax(e) == argmax(o);
    }
  }
  std::sort(kl.begin(), kl.end());
  Int8Figures f{};
  const size_t best = kl.size() - kl.size() / 10;
  for (size_t i = 0; i < kl.size(); ++i) {
    f.kl_mean += kl[i] / static_cast<double>(kl.size());
    if (i < best) f.kl_best_90_percent += kl[i] / static_cast<double>(best);
  }
  f.top1_agreement = same / static_cast<double>(kl.size());

  const std::vector<int32_t> held = golden.integers("held.ids");
  const std::vector<float> logits = all_logits(*engine, held),
                           logprob = golden.floats("held.logprob");
  double ours_sum = 0, golden_sum = 0;
  for (size_t i = 0; i < logprob.size(); ++i) {
    const double ours = log_softmax(std::span(logits).subspan(i * vocab, vocab))[held[i + 1]];
    f.held_mean_abs_dlogprob += std::fabs(ours - logprob[i]) / static_cast<double>(logprob.size());
    ours_sum += ours;
    golden_sum += logprob[i];
  }
  f.held_relative_dperplexity =
      std::fabs(std::exp((golden_sum - ours_sum) / static_cast<double>(logprob.size())) - 1);

  double greedy_same = 0, greedy_steps = 0;
  for (const std::string name : {"greedy_short", "greedy_long"}) {
    Session session = engine->open_session();
    std::span<const float> row = feed(*engine, session, golden.integers(name + ".ids"));
    for (const int32_t expected : golden.integers(name + ".tokens")) {
      greedy_same += argmax(row) == expected;
      ++greedy_steps;
      row = feed(*engine, session, {{expected}});
    }
  }
  f.greedy_steps_same = greedy_same / greedy_steps;

  const nlohmann::json limits =
      nlohmann::json::parse(std::ifstream(data_path("models/int8_limits.json")));
  const nlohmann::json& limit = limits.at(std::string(GetParam().golden) + ".safetensors");
  EXPECT_LE(f.kl_mean, limit.at("kl_mean"));
  EXPECT_LE(f.kl_best_90_percent, limit.at("kl_best_90_percent"));
  EXPECT_GE(f.top1_agreement, limit.at("top1_agreement"));
  EXPECT_LE(f.held_mean_abs_dlogprob, limit.at("held_mean_abs_dlogprob"));
  EXPECT_LE(f.held_relative_dperplexity, limit.at("held_relative_dperplexity"));
  EXPECT_GE(f.greedy_steps_same, limit.at("greedy_steps_same"));
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.file;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(
    Files, FloatGoldenTest,
    testing::Values(Case{"qwen3_next-a", "qwen3_next-a/golden", true},
                    Case{"qwen3_next-b", "qwen3_next-b/golden", true},
                    Case{"qwen3_next-b/qwen3_next-b-bf16.gguf", "qwen3_next-b/golden", true},
                    Case{"qwen3_moe", "qwen3_moe/golden", true},
                    Case{"qwen3_moe/qwen3_moe-bf16.gguf", "qwen3_moe/golden", true}),
    case_name);

INSTANTIATE_TEST_SUITE_P(
    Files, QuantisedGoldenTest,
    testing::Values(Case{"qwen3_next-a/qwen3_next-a-Q4_0.gguf", "qwen3_next-a/golden-Q4_0", false},
                    Case{"qwen3_next-k/qwen3_next-k-Q4_K_M.gguf", "qwen3_next-k/golden-Q4_K_M",
                         false},
                    Case{"qwen3_moe/qwen3_moe-Q4_0.gguf", "qwen3_moe/golden-Q4_0", false},
                    Case{"qwen3_moe/qwen3_moe-Q8_0.gguf", "qwen3_moe/golden-Q8_0", false},
                    Case{"qwen3_moe/qwen3_moe-IQ4_NL.gguf", "qwen3_moe/golden-IQ4_NL", false},
                    Case{"qwen3_moe/qwen3_moe-MXFP4_MOE.gguf", "qwen3_moe/golden-MXFP4_MOE", false},
                    Case{"qwen3_moe-k/qwen3_moe-k-Q4_K_M.gguf", "qwen3_moe-k/golden-Q4_K_M", false},
                    Case{"qwen3_moe-k/qwen3_moe-k-Q5_K_M.gguf", "qwen3_moe-k/golden-Q5_K_M", false},
                    Case{"qwen3_moe-k/qwen3_moe-k-Q6_K.gguf", "qwen3_moe-k/golden-Q6_K", false}),
    case_name);

}  // namespace
}  // namespace hotset::test
