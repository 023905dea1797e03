// What is changed while an engine runs: the size of the experts' tier and the policy, from another
// thread and at any time. No logit changes by it.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "tests/support/engine.h"

namespace hotset::test {
namespace {

const std::string kModel = data_path("models/qwen3_moe/qwen3_moe-Q4_0.gguf");

std::vector<int32_t> some_ids(int count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) ids[i] = (i * 37 + i * i) % 300;
  return ids;
}

std::unique_ptr<Engine> open(EngineOptions options) {
  options.threads = 2;
  options.context = 128;
  return open_engine(kModel, options);
}

TEST(EngineLiveTest, ResizingAndChangingPolicyBesideStepsChangesNoBit) {
  const std::vector<int32_t> ids = some_ids(100);
  const std::vector<float> expected = all_logits(*open({}), ids, 1);
  const auto engine = open({});
  const int64_t all = engine->memory_plan().experts.expert_bytes_total;
  std::atomic<bool> ended = false;
  std::jthread changer([&] {
    const double parts[] = {0.5, 1.0, 0.0, 0.3, 0.7, 0.1};
    for (size_t i = 0; !ended; ++i) {
      engine->resize_experts(static_cast<int64_t>(parts[i % 6] * static_cast<double>(all)));
      engine->replace_policy({static_cast<PolicyKind>(i % 4), 0});
    }
  });
  for (int i = 0; i < 5; ++i) {
    const std::vector<float> logits = all_logits(*engine, ids, i % 2 == 0 ? 1 : 64);
    if (i % 2 == 1) continue;  // other steps, other bits
    EXPECT_EQ(std::memcmp(logits.data(), expected.data(), expected.size() * sizeof(float)), 0);
  }
  ended = true;
  changer.join();
  engine->cache().verify();
}

TEST(EngineLiveTest, AShrunkTierKeepsTheBestAndAGrownOneFillsUp) {
  const auto engine = open({});
  const ExpertCache& cache = engine->cache();
  all_logits(*engine, some_ids(60), 1);
  const auto layers = static_cast<int32_t>(engine->config().num_hidden_layers);
  const auto experts = static_cast<int32_t>(engine->config().num_experts);
  std::vector<float> scores(static_cast<size_t>(layers) * experts);
  cache.save_scores(scores);
  const int64_t all = cache.plan().expert_bytes_total;
  engine->resize_experts(all / 2);
  cache.verify();
  float worst_kept = 1e9f, best_lost = 0;
  for (int32_t i = 0; i < layers * experts; ++i) {
    const bool kept = cache.is_resident({i / experts, i % experts});
    (kept ? worst_kept : best_lost) =
        kept ? std::min(worst_kept, scores[i]) : std::max(best_lost, scores[i]);
  }
  EXPECT_LE(best_lost, worst_kept) << "an expert went that was better than one that stayed";
  EXPECT_LE(cache.resident_bytes(), all / 2);

  engine->resize_experts(all);
  engine->wait_until_resident([](int64_t, int64_t, const char*) {});
  EXPECT_EQ(cache.resident_bytes(), all);
  cache.verify();
}

TEST(EngineLiveTest, ASmallTierStartsWithTheBestOfTheScoresItIsGiven) {
  EngineOptions options;
  const auto shape = open({});
  const auto layers = static_cast<int32_t>(shape->config().num_hidden_layers);
  const auto experts = static_cast<int32_t>(shape->config().num_experts);
  options.expert_bytes = shape->memory_plan().experts.expert_bytes_total / 2;
  // A few of each layer, so that they fit, from the end of the source's order.
  options.expert_scores.resize(static_cast<size_t>(layers) * experts);
  for (int32_t layer = 0; layer < layers; ++layer) {
    for (int32_t i = 1; i <= 2; ++i) {
      options.expert_scores[layer * experts + experts - i] = static_cast<float>(i);
    }
  }
  const auto engine = open(options);  // waits until it is filled
  for (int32_t i = 0; i < layers * experts; ++i) {
    EXPECT_EQ(engine->cache().is_resident({i / experts, i % experts}), options.expert_scores[i] > 0)
        << i;
  }
  engine->cache().verify();
  EXPECT_EQ(engine->cache().stats().misses, 0);
  std::vector<float> saved(options.expert_scores.size());
  engine->cache().save_scores(saved);
  EXPECT_GT(saved[experts - 2], saved[experts - 1]);
  EXPECT_EQ(saved[0], 0.0f);
}

}  // namespace
}  // namespace hotset::test
