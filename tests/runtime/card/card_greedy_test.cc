// A greedy choice is made on the card: the ids are those that the sampler takes from the CPU's
// logits, and the logits stay where they are.
#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/sampler.h"
#include "tests/support/card_runtime.h"
#include "tests/support/engine.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

constexpr int32_t kSessions = 3;

// Counts copies of so many bytes, in either direction.
class CopyCounter : public WatchedRuntime {
 public:
  using WatchedRuntime::WatchedRuntime;
  void copy(CardStream stream, void* to, const void* from, int64_t bytes) override {
    if (bytes == counted_bytes) ++copies;
    WatchedRuntime::copy(stream, to, from, bytes);
  }
  int64_t counted_bytes = -1;
  int copies = 0;

 private:
  void before(const std::string&, CardStream) override {}
};

std::unique_ptr<Engine> open(std::shared_ptr<CardRuntime> card) {
  EngineOptions o = small_options(kSessions);
  o.card = std::move(card);
  return open_engine(small_model(), o);
}

// Of every session's next tokens, fed one at a time; `choose` says what they are.
template <class Choose>
std::vector<int32_t> chosen_by(Engine& engine, const Choose& choose) {
  std::vector<Session> sessions;
  std::vector<BatchRow> rows;
  for (int32_t i = 0; i < kSessions; ++i) {
    sessions.push_back(engine.open_session());
    feed(engine, sessions.back(), {{3 + i, 1, 4 + i}});
  }
  for (Session& session : sessions) rows.push_back({&session, 7, session.position(), true});
  std::vector<int32_t> all;
  for (int step = 0; step < 8; ++step) {
    const std::vector<int32_t> next = choose(rows, step);
    all.insert(all.end(), next.begin(), next.end());
    for (size_t r = 0; r < rows.size(); ++r) {
      rows[r].token = next[r];
      ++rows[r].position;
    }
  }
  return all;
}

// What may be chosen changes from step to step: of these every seventh, or all but some.
std::vector<bool> allowed_in(int step, int64_t vocab) {
  std::vector<bool> allowed(static_cast<size_t>(vocab));
  for (int64_t id = 0; id < vocab; ++id) {
    allowed[static_cast<size_t>(id)] = step % 3 == 0 || (id + step) % 7 != 0;
    if (step == 5) allowed[static_cast<size_t>(id)] = id % 7 == 2;
  }
  return allowed;
}

TEST(CardGreedyTest, WhatTheCardChoosesTheSamplerWouldHaveChosen) {
  HOTSET_NOT_UNDER_TSAN();
  const auto on_cpu = open(nullptr);
  const int64_t vocab = on_cpu->config().vocab_size;
  const std::vector<int32_t> expected =
      chosen_by(*on_cpu, [&](std::span<const BatchRow> rows, int step) {
        Sampler sampler({}, allowed_in(step, vocab));
        const std::span<const float> logits = on_cpu->step(rows);
        std::vector<int32_t> next;
        for (int64_t r = 0; r < std::ssize(rows); ++r) {
          next.push_back(sampler.sample(logits.subspan(r * vocab, vocab)));
        }
        return next;
      });
  const auto greedy = [&](Engine& engine) {
    return chosen_by(engine, [&](std::span<const BatchRow> rows, int step) {
      const Sampler sampler({}, allowed_in(step, vocab));
      const std::span<const int32_t> next = engine.step_greedy(rows, sampler.greedy_ids());
      return std::vector<int32_t>(next.begin(), next.end());
    });
  };
  EXPECT_EQ(greedy(*on_cpu), expected);
  for (const FakeOrder order : {FakeOrder::kInOrder, FakeOrder::kLazy}) {
    EXPECT_EQ(greedy(*open(make_fake_runtime({.order = order}))), expected);
  }
}

TEST(CardGreedyTest, LogitsComeToTheHostOnlyWhereTheyAreAskedFor) {
  HOTSET_NOT_UNDER_TSAN();
  const auto card = std::make_shared<CopyCounter>();
  const auto engine = open(card);
  Session session = engine->open_session();
  feed(*engine, session, {{3, 1, 4}});
  const std::vector<uint8_t> all(static_cast<size_t>(engine->config().vocab_size), 1);
  card->counted_bytes = engine->config().vocab_size * 4;
  for (int32_t token = 0; token < 3; ++token) {
    const BatchRow row{&session, token, session.position(), true};
    engine->step_greedy({&row, 1}, all);
  }
  EXPECT_EQ(card->copies, 0);
  feed(*engine, session, {{5}});
  EXPECT_EQ(card->copies, 1);
}

}  // namespace
}  // namespace hotset::test
