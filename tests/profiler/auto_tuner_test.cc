#include "profiler/auto_tuner.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>

namespace hotset {
namespace {

constexpr PolicyOptions kLfu = {PolicyKind::kLfu, 0}, kLru = {PolicyKind::kLru, 0},
                        kScore8 = {PolicyKind::kScore, 8};

bool same(const PolicyOptions& a, const PolicyOptions& b) {
  return a.kind == b.kind && a.half_life == b.half_life;
}

// An engine whose tokens take what `cost` says of its setting, and some noise. Its replays say of
// every candidate that it gains what `promise` says, surely.
struct Engine {
  PolicyOptions setting;
  std::function<double(const PolicyOptions&)> cost, promise;
  AutoTuner tuner{setting};
  std::vector<TuneAct> acts = {};
  std::mt19937 random{5};
  std::normal_distribution<double> noise{0, 0.5};

  void act(const std::optional<TuneAct>& act) {
    if (!act) return;
    if (act->kind == TuneAct::Kind::kKeep) {
      EXPECT_TRUE(same(act->to, setting));
    } else {
      EXPECT_TRUE(same(act->from, setting));
      // One thing, whichever way.
      EXPECT_EQ((act->from.kind != act->to.kind) + (act->from.half_life != act->to.half_life), 1);
      setting = act->to;
    }
    EXPECT_TRUE(same(tuner.present(), setting));
    acts.push_back(*act);
  }
  void run(int tokens) {
    for (int i = 0; i < tokens; ++i) {
      tuner.token(cost(setting) + noise(random));
      act(tuner.verdict());
      if (!tuner.wants_candidates()) continue;
      std::vector<TuneRow> rows;
      for (const PolicyOptions& candidate : tuner.candidates()) {
        TuneRow row;
        row.setting.policy = candidate;
        row.gain_ms = {promise(candidate), 0.01};
        rows.push_back(row);
      }
      act(tuner.propose(rows));
    }
  }
};

TEST(AutoTunerTest, WhatHelpsIsKept) {
  const auto cost = [](const PolicyOptions& s) { return s.kind == PolicyKind::kLru ? 8.0 : 10.0; };
  Engine engine{kLfu, cost, [&](const PolicyOptions& s) { return 10 - cost(s); }};
  engine.run(4000);
  ASSERT_EQ(engine.acts.size(), 2u);
  EXPECT_EQ(engine.acts[0].kind, TuneAct::Kind::kTry);
  EXPECT_EQ(engine.acts[1].kind, TuneAct::Kind::kKeep);
  EXPECT_NEAR(engine.acts[1].gain_ms->mean, 2, 0.3);
  EXPECT_TRUE(same(engine.setting, kLru));
}

TEST(AutoTunerTest, WhatDoesNotHelpIsTakenBackAndNotTriedAgainSoon) {
  // Replays promise much of everything, tokens are as slow as before, or slower.
  for (const double after : {10.0, 12.0}) {
    Engine engine{kLfu,
                  [&](const PolicyOptions& s) { return s.kind == PolicyKind::kLfu ? 10.0 : after; },
                  [](const PolicyOptions& s) { return s.kind == PolicyKind::kLfu ? 0.0 : 3.0; }};
    engine.run(8000);
    EXPECT_TRUE(same(engine.setting, kLfu)) << after;
    ASSERT_EQ(engine.acts.size(), 4u) << "lru and score, once each";
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(engine.acts[i].kind, i % 2 == 0 ? TuneAct::Kind::kTry : TuneAct::Kind::kTakeBack);
    }
    EXPECT_NE(engine.acts[0].to.kind, engine.acts[2].to.kind);
    engine.run(3000);
    EXPECT_GT(engine.acts.size(), 4u) << "but once more after long";
  }
}

TEST(AutoTunerTest, ATrialIsWatchedAloneAndNotBeforeItHasSettled) {
  AutoTuner tuner(kLfu);
  for (int64_t i = 0; i < AutoTuner::kWindow; ++i) {
    EXPECT_FALSE(tuner.wants_candidates());
    tuner.token(10);
  }
  ASSERT_TRUE(tuner.wants_candidates());
  std::vector<TuneRow> rows(2);
  rows[0].setting.policy = kLfu;
  rows[1].setting.policy = kLru;
  rows[1].gain_ms = {1, 0.1};
  ASSERT_TRUE(tuner.propose(rows));
  // A cold start of the change would cost 100 a token: it is not counted.
  for (int64_t i = 0; i < AutoTuner::kSettle; ++i) tuner.token(100);
  for (int64_t i = 1; i < AutoTuner::kWindow; ++i) {
    tuner.token(i % 2 == 0 ? 8.9 : 9.1);
    EXPECT_FALSE(tuner.wants_candidates()) << "nothing else beside a trial";
    EXPECT_FALSE(tuner.verdict());
  }
  tuner.token(9);
  const auto act = tuner.verdict();
  ASSERT_TRUE(act);
  EXPECT_EQ(act->kind, TuneAct::Kind::kKeep);
  EXPECT_NEAR(act->gain_ms->mean, 1, 0.01);
  EXPECT_FALSE(tuner.verdict()) << "told once";
}

TEST(AutoTunerTest, CandidatesAreOneChangeAway) {
  for (const PolicyOptions& present : {kLfu, kLru, kScore8, PolicyOptions{PolicyKind::kStatic}}) {
    const auto all = AutoTuner(present).candidates();
    EXPECT_TRUE(same(all[0], present));
    EXPECT_GE(all.size(), 3u);
    for (size_t i = 1; i < all.size(); ++i) {
      EXPECT_EQ((all[i].kind != present.kind) + (all[i].half_life != present.half_life), 1);
    }
  }
}

TEST(AutoTunerTest, WhatSomebodyElseSetIsNotTakenBack) {
  Engine engine{kLfu, [](const PolicyOptions&) { return 10.0; },
                [](const PolicyOptions& s) { return s.kind == PolicyKind::kLfu ? 0.0 : 3.0; }};
  engine.run(300);
  ASSERT_EQ(engine.acts.size(), 1u);
  ASSERT_TRUE(engine.tuner.is_trying());
  engine.setting = kScore8;
  engine.tuner.reset(kScore8);
  EXPECT_FALSE(engine.tuner.is_trying());
  engine.promise = [](const PolicyOptions&) { return 0.0; };
  engine.run(1000);
  EXPECT_EQ(engine.acts.size(), 1u);
  EXPECT_TRUE(same(engine.tuner.present(), kScore8));
}

TEST(AutoTunerTest, ATrialThatIsAbandonedIsTakenBack) {
  Engine engine{kLfu, [](const PolicyOptions&) { return 10.0; },
                [](const PolicyOptions& s) { return s.kind == PolicyKind::kLfu ? 0.0 : 3.0; }};
  EXPECT_FALSE(engine.tuner.abandon());
  engine.run(300);
  engine.act(engine.tuner.abandon());
  EXPECT_EQ(engine.acts.back().kind, TuneAct::Kind::kTakeBack);
  EXPECT_FALSE(engine.acts.back().gain_ms);
  EXPECT_TRUE(same(engine.setting, kLfu));
  EXPECT_FALSE(engine.tuner.abandon());
}

TEST(AutoTunerTest, NothingBetterIsNotLookedForAllTheTime) {
  AutoTuner tuner(kLru);
  int looked = 0;
  for (int i = 0; i < 5000; ++i) {
    tuner.token(10);
    if (!tuner.wants_candidates()) continue;
    ++looked;
    EXPECT_FALSE(tuner.propose({}));
  }
  EXPECT_EQ(looked, 5);
}

}  // namespace
}  // namespace hotset
