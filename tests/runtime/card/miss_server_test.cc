// The host's half of the mailboxes, with a thread that plays the card by the same protocol: release
// of flags after payloads, acquire before, random delays on both sides.
#include "runtime/card/miss_server.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <random>

#include "kernels/check.h"

namespace hotset::test {
namespace {

constexpr int64_t kK = 2, kWidth = 32, kRowsMax = 3;
constexpr uint32_t kLayers = 5;

struct Buffers {
  alignas(64) uint32_t request_flag = 0;
  alignas(64) uint32_t reply_flag = 0;
  int32_t layer = -1;
  int32_t picks[kRowsMax * kK] = {};
  int8_t q[kRowsMax * kWidth] = {};
  float scale[kRowsMax] = {};
  int16_t half_sum[kRowsMax * 2] = {};
  float outputs[kRowsMax * kK * kWidth] = {};

  CardMailbox mailbox() {
    return {.request_flag = &request_flag,
            .layer = &layer,
            .picks = picks,
            .q = {q, scale, half_sum, 1},
            .x = nullptr,
            .reply_flag = &reply_flag,
            .outputs = outputs};
  }
};

// A number that depends on all that the request says.
float answer_to(int32_t layer, int32_t expert, const int8_t* q, float scale) {
  float sum = static_cast<float>(layer * 1000 + expert);
  for (int64_t i = 0; i < kWidth; ++i) sum += scale * static_cast<float>(q[i]);
  return sum;
}

class Computer : public MissComputer {
 public:
  void compute(int32_t layer, const Routing& picks, const Activations& in, StepKind, int64_t now,
               float* outputs) override {
    ++calls;
    last_now = now;
    if (delay_us > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % delay_us));
    }
    if (layer == fail_at) throw Error("expert of layer " + std::to_string(layer) + " is damaged");
    for (int64_t p = 0; p < picks.rows * picks.k; ++p) {
      if (picks.experts[p] < 0) continue;
      const int64_t row = p / picks.k;
      std::fill_n(outputs + p * kWidth, kWidth,
                  answer_to(layer, picks.experts[p], in.q.q + row * kWidth, in.q.scale[row]));
    }
  }
  int calls = 0;
  int64_t last_now = 0;
  int32_t fail_at = -1;
  unsigned delay_us = 0;
  std::minstd_rand random{7};
};

class MissServerTest : public testing::Test {
 protected:
  MissServerTest()
      : server_(computer_, {buffers_[0].mailbox(), buffers_[1].mailbox()}, kK, kWidth) {}

  // What post does on the card.
  void post(uint32_t sequence, int32_t layer, int64_t rows) {
    Buffers& b = buffers_[layer % 2];
    b.layer = layer;
    for (int64_t p = 0; p < rows * kK; ++p) {
      b.picks[p] = random_() % 3 == 0 ? -1 : static_cast<int32_t>(random_() % 100);
    }
    b.picks[0] = static_cast<int32_t>(random_() % 100);  // else nothing would be posted
    for (int64_t i = 0; i < rows * kWidth; ++i) b.q[i] = static_cast<int8_t>(random_() % 200);
    for (int64_t r = 0; r < rows; ++r) b.scale[r] = static_cast<float>(random_() % 8);
    std::fill(std::begin(b.outputs), std::end(b.outputs), -1.0f);
    std::atomic_ref(b.request_flag).store(sequence, std::memory_order_release);
  }
  // What combine does.
  void wait(uint32_t sequence, int32_t layer) {
    Buffers& b = buffers_[layer % 2];
    while (static_cast<int32_t>(std::atomic_ref(b.reply_flag).load(std::memory_order_acquire) -
                                sequence) < 0) {
      std::this_thread::yield();
    }
  }
  void expect_answers(int32_t layer, int64_t rows) {
    const Buffers& b = buffers_[layer % 2];
    for (int64_t p = 0; p < rows * kK; ++p) {
      const float expected =
          b.picks[p] < 0 ? -1.0f
                         : answer_to(layer, b.picks[p], b.q + p / kK * kWidth, b.scale[p / kK]);
      for (int64_t i = 0; i < kWidth; ++i) ASSERT_EQ(b.outputs[p * kWidth + i], expected);
    }
  }
  void pause() {
    if (delay_us_ == 0) return;
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % delay_us_));
  }
  void run_steps(uint32_t first, uint32_t steps) {
    for (uint32_t step = first; step < first + steps; ++step) {
      const auto rows = static_cast<int64_t>(1 + random_() % kRowsMax);
      server_.begin_step(rows, StepKind::kDecode, step);
      for (uint32_t layer = 0; layer < kLayers; ++layer) {
        if (random_() % 4 == 0) continue;  // no misses: nothing is posted
        const uint32_t sequence = step * kLayers + layer + 1;
        pause();
        post(sequence, static_cast<int32_t>(layer), rows);
        pause();
        wait(sequence, static_cast<int32_t>(layer));
        expect_answers(static_cast<int32_t>(layer), rows);
        if (HasFatalFailure()) break;
      }
      server_.end_step();
    }
  }

  Buffers buffers_[2];
  Computer computer_;
  std::minstd_rand random_{3};
  unsigned delay_us_ = 0;
  MissServer server_;
};

TEST_F(MissServerTest, EveryRequestIsAnsweredWithItsOwnOutputs) {
  run_steps(1, 5000);
  EXPECT_EQ(computer_.last_now, 5000);
}

TEST_F(MissServerTest, DelaysOnBothSidesChangeNothing) {
  delay_us_ = computer_.delay_us = 60;
  run_steps(1, 150);
}

TEST_F(MissServerTest, SequenceNumbersMayWrapAround) {
  constexpr uint32_t kFirst = 0xffffffffu / kLayers - 50;
  for (Buffers& b : buffers_) b.reply_flag = kFirst * kLayers;  // as the step before has left it
  run_steps(kFirst, 100);
}

TEST_F(MissServerTest, AnErrorEndsTheStepAndNothingWaitsForEver) {
  computer_.fail_at = 2;
  server_.begin_step(1, StepKind::kDecode, 1);
  for (const int32_t layer : {0, 2, 3}) {
    post(static_cast<uint32_t>(10 + layer), layer, 1);
    wait(static_cast<uint32_t>(10 + layer), layer);
    if (layer == 0) continue;
    // The one that failed and those after it: zeros, and nobody tries to compute.
    EXPECT_EQ(computer_.calls, 2);
  }
  try {
    server_.end_step();
    FAIL() << "the step's error was lost";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer 2"), std::string::npos);
  }
  computer_.fail_at = -1;
  run_steps(20, 10);  // the next steps are as good as any
}

TEST_F(MissServerTest, ItIsParkedBetweenSteps) {
  run_steps(1, 1);
  const int calls = computer_.calls;
  buffers_[0].layer = 0;
  std::atomic_ref(buffers_[0].request_flag).store(1000, std::memory_order_release);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(computer_.calls, calls);
  EXPECT_EQ(std::atomic_ref(buffers_[0].reply_flag).load() == 1000, false);
}

}  // namespace
}  // namespace hotset::test
