// Nothing allocates on the token path (docs/architecture.md, State): counts this program's
// allocations while tokens are decoded.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/count_allocations.h"
#include "tests/support/engine.h"

namespace hotset::test {
namespace {

void expect_no_allocation_while_decoding(const std::string& model, int64_t budget,
                                         std::unique_ptr<Ring> ring = nullptr) {
  EngineOptions options = small_options();
  options.expert_bytes = budget;
  const auto engine = open_engine(data_path(model), options, std::move(ring));
  Session session = engine->open_session();
  // Past the first KV block.
  const std::vector<int32_t> prompt(230, 5);
  feed(*engine, session, prompt);
  feed(*engine, session, {{7}});
  const int64_t before = allocations;
  for (int32_t i = 0; i < 64; ++i) feed(*engine, session, {{i % 300}});
  EXPECT_EQ(allocations - before, 0);
}

TEST(AllocationTest, DecodingAllocatesNothingWhereTheModelIsResident) {
  expect_no_allocation_while_decoding("demo/hotset-demo-q4_0.gguf", INT64_MAX);
  expect_no_allocation_while_decoding("models/qwen3_moe", INT64_MAX);
}

TEST(AllocationTest, DecodingAllocatesNothingWhereExpertsAreLoadedAsNeeded) {
  expect_no_allocation_while_decoding("demo/hotset-demo-q4_0.gguf", 2 << 20);
}

TEST(AllocationTest, DecodingAllocatesNothingWhereItIsWatched) {
  const std::string folder = testing::TempDir() + "allocation_rings_" + std::to_string(getpid());
  RingHeader header;
  header.layers = header.experts_per_layer = 64;
  expect_no_allocation_while_decoding("demo/hotset-demo-q4_0.gguf", 2 << 20,
                                      std::make_unique<Ring>(folder, header, 1024, 8));
  std::filesystem::remove(folder);
}

}  // namespace
}  // namespace hotset::test
