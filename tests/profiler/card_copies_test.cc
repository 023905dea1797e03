// What watchers hear of copies to a card: every expert that a prompt's ring or a slot was given, by
// its cause, and the time that threads take to send them.
#include <algorithm>
#include <set>

#include "kernels/cuda/fake_runtime.h"
#include "tests/profiler/rings.h"
#include "tests/support/engine.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

class CardCopiesTest : public testing::Test {
 protected:
  void SetUp() override {
    HOTSET_NOT_UNDER_TSAN();
    EngineOptions options = small_options();
    options.card = make_fake_runtime({.order = FakeOrder::kLazy});
    options.card_tier.lambda = 0;
    options.card_prompts = {2, 0.01};  // all that is missing is copied, and goes round the ring
    const MemoryPlan plan = Engine::plan(open_model(small_model()), options);
    options.card_room.expert_bytes = plan.experts.expert_bytes_total / 4;
    RingHeader header = small_header();
    header.layers = 8;
    engine_ = open_engine(small_model(), options,
                          std::make_unique<Ring>(folder_.path(), header, 65536, 16));
    picks_.emplace(engine_->config());
    feed_new_session(std::vector<int32_t>(20, 5), 0, &*picks_);
    while (engine_->card_tier()->stats().admissions < 3) feed_new_session({7, 8}, 1, nullptr);
    engine_->set_card_room({});  // no copy is under way any more, and none begins
    RingReader reader(find_rings(folder_.path()).at(0));
    records_ = drain(reader);
  }
  void feed_new_session(const std::vector<int32_t>& ids, int64_t chunk, StepObserver* observer) {
    Session session = engine_->open_session();
    feed(*engine_, session, ids, chunk, nullptr, observer);
  }
  std::vector<Record> copies(TransferCause cause) const {
    std::vector<Record> copies;
    std::copy_if(records_.begin(), records_.end(), std::back_inserter(copies),
                 [&](const Record& r) {
                   return r.type == RecordType::kTransfer && r.as<TransferRecord>().to_card == 1 &&
                          r.detail == static_cast<uint8_t>(cause);
                 });
    return copies;
  }
  // Bytes that threads were seen to send, in the first step or after it.
  int64_t sent(bool in_first_step) const {
    int64_t bytes = 0;
    for (const Record& r : records_) {
      const bool is_copy =
          r.type == RecordType::kRange && r.detail == static_cast<uint8_t>(RangeName::kCopy);
      if (is_copy && (r.step == 1) == in_first_step) bytes += r.as<RangeRecord>().bytes;
    }
    return bytes;
  }

  RingFolder folder_;
  std::unique_ptr<Engine> engine_;
  std::optional<Recorder> picks_;  // of the prompt, which is the first step
  std::vector<Record> records_;
};

TEST_F(CardCopiesTest, APromptsRingTellsOfEveryExpertOnce) {
  const PromptStats stats = engine_->prompt_stats();
  const std::vector<Record> copies = this->copies(TransferCause::kPrompt);
  ASSERT_GT(stats.copied, 8);
  ASSERT_EQ(std::ssize(copies), stats.copied);
  const auto end = std::find_if(records_.begin(), records_.end(),
                                [](const Record& r) { return r.type == RecordType::kStepEnd; });
  std::set<std::pair<int32_t, int32_t>> seen;
  int64_t bytes = 0;
  for (const Record& r : copies) {
    const auto copy = r.as<TransferRecord>();
    bytes += copy.bytes;
    EXPECT_EQ(r.step, 1U);
    EXPECT_GT(copy.duration_ns, 0);
    EXPECT_LT(copy.duration_ns, end->as<StepRecord>().duration_ns);
    EXPECT_TRUE(seen.insert({r.layer, copy.expert}).second);
    const std::vector<int32_t>& picked = picks_->experts[r.layer];
    EXPECT_NE(std::find(picked.begin(), picked.end(), copy.expert), picked.end());
  }
  EXPECT_EQ(bytes, stats.copied_bytes);
  EXPECT_EQ(sent(true), stats.copied_bytes);
}

TEST_F(CardCopiesTest, SlotsTellOfTheirsApart) {
  const CacheStats stats = engine_->card_tier()->stats();
  int64_t bytes = 0;
  for (const Record& r : copies(TransferCause::kAdmission)) bytes += r.as<TransferRecord>().bytes;
  EXPECT_GT(bytes, 0);
  EXPECT_EQ(bytes, stats.bytes_read);
  EXPECT_EQ(sent(false), stats.bytes_read);
}

}  // namespace
}  // namespace hotset::test
