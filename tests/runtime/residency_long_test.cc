// The full matrix of residency_test.cc: every test model, with room for all experts down to none, 1
// to 4 threads, steps of 64 to 512 rows, every instruction set: one set of bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "kernels/cpu/kernel_table.h"
#include "tests/support/engine.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

// Files and folders under tests/data/models, relative to it.
std::vector<std::string> all_models() {
  namespace fs = std::filesystem;
  const fs::path models = data_path("models");
  std::vector<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(models)) {
    const fs::path path = fs::relative(entry.path(), models);
    if (path.extension() == ".gguf") found.push_back(path);
    if (path.filename() == "model.safetensors") found.push_back(path.parent_path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

class ResidencyLongTest : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Engine> open(const char* isa, int64_t ram_percent, int threads) const {
    EngineOptions o;
    o.isa = isa;
    o.threads = threads;
    o.context = 256;
    o.expert_bytes = ram_percent == 100 ? INT64_MAX : expert_bytes_ * ram_percent / 100;
    return open_engine(data_path("models/" + GetParam()), o);
  }

  void SetUp() override {
    HOTSET_ON_DEMAND("HOTSET_LONG");
    const auto engine = open("portable", 100, 1);
    expert_bytes_ = engine->memory_plan().experts.expert_bytes_total;
    for (int64_t i = 0; i < 200; ++i) {
      ids_.push_back(static_cast<int32_t>(i * i * 7 % engine->config().vocab_size));
    }
    expected_ = all_logits(*engine, ids_);
  }

  void expect_same_bits(const char* isa, int64_t ram_percent, int threads) {
    const auto engine = open(isa, ram_percent, threads);
    for (const int64_t chunk : {64, 128, 512}) {
      const std::vector<float> logits = all_logits(*engine, ids_, chunk);
      ASSERT_EQ(logits.size(), expected_.size());
      EXPECT_EQ(std::memcmp(logits.data(), expected_.data(), logits.size() * 4), 0)
          << isa << ", ram " << ram_percent << " %, " << threads << " threads, steps of " << chunk;
    }
    engine->cache().verify();
  }

  int64_t expert_bytes_ = 0;
  std::vector<int32_t> ids_;
  std::vector<float> expected_;
};

TEST_P(ResidencyLongTest, NothingChangesABit) {
  for (const char* isa : kKernelTableNames) {
    if (find_kernel_table(isa) == nullptr) continue;
    for (const int64_t ram_percent : {100, 50, 25, 10, 0}) {
      for (const int threads : {1, 2, 3, 4}) expect_same_bits(isa, ram_percent, threads);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ResidencyLongTest, testing::ValuesIn(all_models()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace_if(
                               name.begin(), name.end(),
                               [](unsigned char c) { return !std::isalnum(c); }, '_');
                           return name;
                         });

}  // namespace
}  // namespace hotset::test
