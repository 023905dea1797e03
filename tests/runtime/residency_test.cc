// Residency never changes the answer (docs/numerics.md): the bits of every logit are the same
// whatever is cached, however many threads compute, on every instruction set, for prompt chunks
// that are multiples of 64, and whatever else is in the batch.
#include <gtest/gtest.h>

#include "kernels/check.h"
#include "kernels/cpu/kernel_table.h"
#include "tests/support/held_out.h"

namespace hotset::test {
namespace {

constexpr int64_t kTokens = 200;

class ResidencyTest : public testing::TestWithParam<const char*> {
 protected:
  static EngineOptions options() { return small_options(); }
  std::unique_ptr<Engine> open(const EngineOptions& o) const {
    return open_engine(data_path(std::string("models/") + GetParam()), o);
  }
  std::vector<float> logits(const EngineOptions& o, int64_t chunk = 0) const {
    return all_logits(*open(o), ids_, chunk);
  }
  const std::vector<int32_t> ids_ = held_out(GetParam(), kTokens);
};

TEST_P(ResidencyTest, BudgetNeverChangesABit) {
  const std::vector<float> resident = logits(options());
  const int64_t all = open(options())->memory_plan().experts.expert_bytes_total;
  for (const int64_t budget : {all / 2, all / 10, int64_t{0}}) {
    EngineOptions o = options();
    o.expert_bytes = budget;
    const auto engine = open(o);
    EXPECT_TRUE(same_bits(all_logits(*engine, ids_), resident)) << "budget " << budget;
    // Token by token, where every step evicts: the same as token by token with everything resident.
    EXPECT_TRUE(same_bits(all_logits(*engine, ids_, 1), logits(options(), 1)))
        << "budget " << budget;
    engine->cache().verify();
  }
}

TEST_P(ResidencyTest, ThreadsNeverChangeABit) {
  const std::vector<float> expected = logits(options());
  for (const int threads : {1, 3}) {
    EngineOptions o = options();
    o.threads = threads;
    EXPECT_TRUE(same_bits(logits(o), expected)) << threads << " threads";
  }
}

TEST_P(ResidencyTest, InstructionSetNeverChangesABit) {
  const std::vector<float> expected = logits(options());
  std::string skipped;
  for (const char* isa : kKernelTableNames) {
    if (find_kernel_table(isa) == nullptr) {
      skipped += std::string(" ") + isa;
      continue;
    }
    for (const int64_t chunk : {0, 1}) {
      EngineOptions o = options();
      o.isa = isa;
      EXPECT_TRUE(same_bits(logits(o, chunk), chunk == 0 ? expected : logits(options(), 1))) << isa;
    }
  }
  if (!skipped.empty()) std::printf("not run, this machine lacks:%s\n", skipped.c_str());
}

TEST_P(ResidencyTest, ChunksOfSixtyFourAndMoreGiveTheSameBits) {
  EXPECT_TRUE(same_bits(logits(options(), 64), logits(options(), 512)));
}

TEST_P(ResidencyTest, OtherRowsInTheBatchNeverChangeARow) {
  EngineOptions o = options();
  o.sessions = 3;
  const auto engine = open(o);
  const int64_t vocab = engine->config().vocab_size;
  const std::vector<float> alone = all_logits(*engine, ids_);
  Session first = engine->open_session(), second = engine->open_session(),
          third = engine->open_session();
  // The others are prompts at other positions; theirs come before and after.
  feed(*engine, second, std::span(ids_).subspan(0, 37));
  std::vector<BatchRow> rows;
  for (int64_t i = 0; i < 90; ++i) rows.push_back({&second, ids_[i + 5], 37 + i, false});
  for (int64_t i = 0; i < 200; ++i) rows.push_back({&first, ids_[i], i, true});
  for (int64_t i = 0; i < 3; ++i) rows.push_back({&third, ids_[i + 50], i, false});
  EXPECT_TRUE(same_bits(engine->step(rows), alone));

  // Decoding three sessions at once against one after the other.
  const Snapshot before[3] = {first.snapshot(), second.snapshot(), third.snapshot()};
  const BatchRow together[3] = {{&first, 7, first.position(), true},
                                {&second, 8, second.position(), true},
                                {&third, 9, third.position(), true}};
  const std::span<const float> step = engine->step(together);
  const std::vector<float> batched(step.begin(), step.end());
  Session* sessions[3] = {&first, &second, &third};
  for (int i = 0; i < 3; ++i) {
    sessions[i]->restore(before[i]);
    const BatchRow row{sessions[i], 7 + i, sessions[i]->position(), true};
    EXPECT_TRUE(same_bits(engine->step({&row, 1}), std::span(batched).subspan(i * vocab, vocab)));
  }
}

// Four sessions of 150 rows cross the mixers' tile of 512 rows in the middle of a delta-net chunk.
TEST_P(ResidencyTest, ARunCutByATileKeepsItsBits) {
  EngineOptions o = options();
  o.sessions = 4;
  o.context = 1024;
  o.expert_bytes = 0;  // so that a step takes more than 512 rows
  const auto engine = open(o);
  const std::span<const int32_t> ids = std::span(ids_).subspan(0, 150);
  const std::vector<float> alone = all_logits(*engine, ids);
  std::vector<Session> sessions;
  for (int i = 0; i < 4; ++i) sessions.push_back(engine->open_session());
  std::vector<BatchRow> rows;
  for (int i = 0; i < 4; ++i) {
    for (int64_t t = 0; t < 150; ++t) rows.push_back({&sessions[i], ids[t], t, i == 3});
  }
  EXPECT_TRUE(same_bits(engine->step(rows), alone));
}

INSTANTIATE_TEST_SUITE_P(Models, ResidencyTest,
                         testing::Values("qwen3_next-a/qwen3_next-a-Q4_0.gguf",
                                         "qwen3_next-k/qwen3_next-k-Q4_K_M.gguf", "qwen3_next-b",
                                         "qwen3_moe/qwen3_moe-MXFP4_MOE.gguf"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

TEST(SessionTest, RecurrentStateIsNotRewoundSilently) {
  const auto engine = open_engine(small_model(), {.context = 256});
  Session session = engine->open_session();
  feed(*engine, session, {{1, 2, 3, 4}});
  EXPECT_FALSE(session.can_truncate(2));
  EXPECT_THROW(session.truncate(2), Error);
  EXPECT_EQ(session.position(), 4);
  session.truncate(0);
  EXPECT_EQ(session.position(), 0);
}

TEST(SessionTest, TruncatedAttentionModelContinuesAsIfNeverGoneFurther) {
  const auto engine = open_engine(data_path("models/qwen3_moe"), {.context = 600, .sessions = 2});
  const std::vector<int32_t> ids = held_out("qwen3_moe", kTokens);
  Session session = engine->open_session();
  feed(*engine, session, ids);
  feed(*engine, session, ids);
  session.truncate(200);
  std::span<const float> step = feed(*engine, session, {{5}});
  const std::vector<float> after(step.begin(), step.end());
  Session fresh = engine->open_session();
  EXPECT_THROW(engine->open_session(), Error);
  feed(*engine, fresh, ids);
  EXPECT_TRUE(same_bits(feed(*engine, fresh, {{5}}), after));
}

TEST(SessionTest, RestoredSnapshotContinuesWithTheSameBits) {
  const auto engine = open_engine(small_model(), {.context = 600});
  const std::vector<int32_t> ids = held_out("qwen3_next-b", kTokens);
  Session session = engine->open_session();
  feed(*engine, session, ids);
  EXPECT_EQ(session.position(), kTokens);
  expect_to_continue_from_a_snapshot(*engine, session);
}

}  // namespace
}  // namespace hotset::test
