#include "tools/auto_tuning.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/check.h"
#include "tools/tune_subject.h"

namespace hotset {
namespace {

constexpr int kTimeoutMs = 2000;
constexpr int64_t kTokens = 1024;  // that candidates are replayed on
constexpr uint64_t kAskAgainNs = 60'000'000'000;

std::string name_of(const PolicyOptions& policy) {
  const std::string_view name = policy_names()[static_cast<size_t>(policy.kind)];
  return fmt::format("cache.policy={} cache.half_life={}", name, policy.half_life);
}

nlohmann::ordered_json json_of(const PolicyOptions& policy) {
  return {{"policy", policy_names()[static_cast<size_t>(policy.kind)]},
          {"half_life", policy.half_life}};
}

std::string line_of(const TuneAct& act, int pid, const std::string& model, const Now& now) {
  nlohmann::ordered_json line = {
      {"event", "tune"},      {"unix_ms", now.unix_ms},         {"pid", pid},
      {"model", model},       {"act", tune_act_name(act.kind)}, {"from", json_of(act.from)},
      {"to", json_of(act.to)}};
  if (act.gain_ms) {
    line["gain_ms"] = act.gain_ms->mean;
    line["gain_ms_low"] = act.gain_ms->low();
    line["gain_ms_high"] = act.gain_ms->high();
  }
  return line.dump();
}

Config with(Config config, const PolicyOptions& policy) {
  config.cache.policy = policy_names()[static_cast<size_t>(policy.kind)];
  config.cache.half_life = policy.half_life;
  return config;
}

}  // namespace

void AutoTuning::tick(std::span<const std::unique_ptr<WatchedEngine>> engines, const Now& now,
                      JsonLog* log) {
  std::erase_if(engines_, [&](const auto& known) {
    return std::none_of(engines.begin(), engines.end(),
                        [&](const auto& engine) { return engine->reader.path() == known.first; });
  });
  for (const auto& engine : engines) {
    try {
      auto known = engines_.find(engine->reader.path());
      if (known == engines_.end()) {
        const RingHeader& header = engine->reader.header();
        const std::filesystem::path path = engine->reader.path();
        Tuned fresh = {{path.parent_path(), static_cast<int>(header.pid)},
                       engine->reader.model(),
                       LiveRouting(header, kTokens),
                       std::nullopt,
                       0,
                       false};
        known = engines_.emplace(engine->reader.path(), std::move(fresh)).first;
      }
      Tuned& tuned = known->second;
      tuned.routing.absorb(engine->records, [&](double ms) {
        if (tuned.tuner) tuned.tuner->token(ms);
      });
      if (engine->statistics.card().is_known && !std::exchange(tuned.is_on_card, true)) {
        fmt::print(
            stderr,
            "hotset: tune: {} (process {}) computes on a card; nothing is changed meanwhile\n",
            tuned.model, tuned.engine.pid);
      }
      if (now.monotonic_ns >= tuned.ask_at_ns) attend(tuned, now, log);
    } catch (const std::exception& error) {
      const auto known = engines_.find(engine->reader.path());
      if (known == engines_.end()) continue;  // a ring that says nothing of picks
      fmt::print(stderr, "hotset: tune: {}\n", error.what());
      known->second.tuner.reset();  // what it has now is asked for again
      known->second.ask_at_ns = now.monotonic_ns + kAskAgainNs;
    }
  }
}

void AutoTuning::attend(Tuned& tuned, const Now& now, JsonLog* log) {
  if (!tuned.tuner) {
    if (tuned.routing.tokens() < kTuneTokensLeast) return;
    const TuneSubject subject = subject_of_stats(ask(tuned.engine, {}, kTimeoutMs));
    tuned.tuner.emplace(policy_options(subject.present.cache));
    return;
  }
  if (const auto act = tuned.tuner->verdict()) return perform(tuned, *act, now, log);
  if (tuned.tuner->wants_candidates() && !is_trying()) look(tuned, now, log);
}

bool AutoTuning::is_trying() const {
  return std::any_of(engines_.begin(), engines_.end(), [](const auto& known) {
    return known.second.tuner && known.second.tuner->is_trying();
  });
}

void AutoTuning::look(Tuned& tuned, const Now& now, JsonLog* log) {
  TuneSubject subject = subject_of_stats(ask(tuned.engine, {}, kTimeoutMs));
  const PolicyOptions present = policy_options(subject.present.cache);
  if (present != tuned.tuner->present()) return tuned.tuner->reset(present);
  subject.trace = tuned.routing.trace();
  const TraceHeader& h = subject.trace.header;
  if (std::ssize(subject.expert_bytes) != h.layers) {
    throw Error(
        fmt::format("process {} has not the layers that its ring says it has", tuned.engine.pid));
  }
  std::vector<TuneRow> rows;
  const TuneCosts costs = tuned.routing.costs();
  if (costs.miss_ms > 0) {  // else nothing can be gained
    const SlotPlan plan =
        plan_slots(subject.expert_bytes, h.experts, subject.present_budget_bytes, h.top_k);
    std::vector<TuneSetting> settings;
    for (const PolicyOptions& candidate : tuned.tuner->candidates()) {
      settings.push_back({candidate, plan.slot_bytes_total, slot_pools(plan)});
    }
    rows = tune(subject.trace, settings, costs, [](size_t) {});
  }
  if (const auto act = tuned.tuner->propose(rows)) perform(tuned, *act, now, log);
}

void AutoTuning::perform(Tuned& tuned, const TuneAct& act, const Now& now, JsonLog* log) {
  // Only what the tuner believes to be there is replaced: what a user has set meanwhile is theirs.
  const TuneSubject subject = subject_of_stats(ask(tuned.engine, {}, kTimeoutMs));
  const PolicyOptions has = policy_options(subject.present.cache);
  const bool is_keep = act.kind == TuneAct::Kind::kKeep;
  if (has != (is_keep ? act.to : act.from)) return tuned.tuner->reset(has);
  if (!is_keep) {
    change_engine(tuned.engine, subject.present, with(subject.present, act.to), kTimeoutMs);
  }
  std::string gain = "not watched to its end";
  if (act.gain_ms) {
    gain = fmt::format("gain {} {:+.3f} ms a token ({:+.3f} to {:+.3f})",
                       act.kind == TuneAct::Kind::kTry ? "expected" : "measured", act.gain_ms->mean,
                       act.gain_ms->low(), act.gain_ms->high());
  }
  fmt::print(stderr, "tune: process {}: {}: {} -> {}; {}\n", tuned.engine.pid,
             tune_act_name(act.kind), name_of(act.from), name_of(act.to), gain);
  if (log != nullptr) log->append(line_of(act, tuned.engine.pid, tuned.model, now));
}

void AutoTuning::finish(const Now& now, JsonLog* log) {
  for (auto& [path, tuned] : engines_) {
    if (!tuned.tuner) continue;
    try {
      if (const auto act = tuned.tuner->abandon()) perform(tuned, *act, now, log);
    } catch (const std::exception& error) {
      fmt::print(stderr, "hotset: tune: {}\n", error.what());
    }
  }
}

}  // namespace hotset
