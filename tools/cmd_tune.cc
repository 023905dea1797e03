// `hotset tune`: which cache settings would have served a recorded routing best on this machine.
// Method: profiler/tune.h. A miss is priced by what one costs here: measured with -m on the model's
// own file, given, or, with --live, what the running engine's own misses cost it.
//
// Searched are policy, half-life and memory. A margin that a newcomer must be ahead by, or a bound
// on insertions, is not: they save copies, and in memory over a file an expert that was missed has
// been read before its place is asked for, so keeping it costs nothing (Policy::admits at a price
// of 0).
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "profiler/tune.h"
#include "runtime/weights/output_file.h"
#include "tools/cache_folder.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/engine_client.h"
#include "tools/in_range.h"
#include "tools/progress.h"
#include "tools/size.h"
#include "tools/tune_subject.h"

namespace hotset {
namespace {

struct TuneFlags {
  TuneFrom from;
  std::vector<std::string> budgets;
  std::vector<std::string> policies = {"score", "lru", "lfu"};
  std::vector<double> half_lives = {0, 4, 8, 16, 32, 64};
  std::string output;
  bool apply = false, json = false;
};

struct Candidate {
  Config config;
  TuneSetting setting;
};

// The present setting first, then each other one once.
std::vector<Candidate> candidates_of(const TuneSubject& subject, const TuneFlags& flags) {
  const TraceHeader& h = subject.trace.header;
  std::vector<Candidate> all;
  const auto add = [&](const std::string& ram, int64_t bytes, const CacheConfig& cache) {
    Candidate c = {subject.present, {}};
    c.config.ram = ram;
    c.config.cache = cache;
    const SlotPlan plan = plan_slots(subject.expert_bytes, h.experts, bytes, h.top_k);
    c.setting = {policy_options(cache), plan.slot_bytes_total, slot_pools(plan)};
    const bool is_known = std::any_of(all.begin(), all.end(), [&](const Candidate& other) {
      const PolicyOptions &a = other.setting.policy, &b = c.setting.policy;
      const bool same_half_life = a.half_life == b.half_life || b.kind != PolicyKind::kScore;
      return other.setting.budget_bytes == c.setting.budget_bytes && a.kind == b.kind &&
             same_half_life;
    });
    if (!is_known) all.push_back(std::move(c));
  };
  const auto add_policies = [&](const std::string& ram, int64_t bytes) {
    CacheConfig cache = subject.present.cache;
    add(ram, bytes, cache);
    for (const std::string& policy : flags.policies) {
      cache.policy = policy;
      cache.half_life = subject.present.cache.half_life;
      if (policy != "score") add(ram, bytes, cache);
      if (policy != "score") continue;
      for (const double half_life : flags.half_lives) {
        cache.half_life = half_life;
        add(ram, bytes, cache);
      }
    }
  };
  add_policies(subject.present.ram, subject.present_budget_bytes);
  for (const std::string& text : flags.budgets) {
    add_policies(text, subject.budget_of(text));
  }
  return all;
}

std::string half_life_of(const PolicyOptions& policy) {
  if (policy.kind != PolicyKind::kScore) return "";
  return policy.half_life == 0 ? "auto" : fmt::format("{:g}", policy.half_life);
}

std::string budget_words(const TuneSubject& subject, const TuneSetting& setting) {
  const int64_t all = subject.all_bytes();
  const double part = 100 * static_cast<double>(setting.budget_bytes) / static_cast<double>(all);
  return fmt::format("{} ({:.0f} %)", human_bytes(setting.budget_bytes), part);
}

void print_table(const TuneSubject& subject, std::span<const TuneRow> rows, size_t best) {
  const TraceHeader& h = subject.trace.header;
  const int64_t steps = decode_steps(subject.trace);
  fmt::print("{} decoded tokens, the first {} only to warm up; {} layers of {} experts, top-{}\n",
             steps, static_cast<int64_t>(kWarmUpShare * static_cast<double>(steps)), h.layers,
             h.experts, h.top_k);
  fmt::print("a miss costs {:.4g} ms ({}); ms/token: {}\n", subject.costs.miss_ms,
             subject.costs_from,
             subject.costs.rest_ms > 0 ? "all of a token" : "of the misses alone");
  fmt::print(
      "gain: against the first row, with an interval that holds at {:.0f} % for all rows "
      "together ({} blocks of tokens)\n",
      100 * kTuneConfidence, kTuneBlocks);
  fmt::print("  {:<18}{:<8}{:>10}{:>10}{:>14}{:>11}   {}\n", "budget", "policy", "half-life",
             "hits", "misses/token", "ms/token", "gain ms/token");
  for (size_t i = 0; i < rows.size(); ++i) {
    const TuneRow& row = rows[i];
    const std::string gain = i == 0 ? "present"
                                    : fmt::format("{:+.3f} ({:+.3f} to {:+.3f})", row.gain_ms.mean,
                                                  row.gain_ms.low(), row.gain_ms.high());
    fmt::print("{} {:<18}{:<8}{:>10}{:>8.2f} %{:>14.2f}{:>11.3f}   {}\n", i == best ? "*" : " ",
               budget_words(subject, row.setting), policy_names()[size_t(row.setting.policy.kind)],
               half_life_of(row.setting.policy), 100 * row.hit_rate, row.misses_per_token,
               row.ms_per_token, gain);
  }
  if (best == 0) {
    fmt::print("nothing is clearly better than the present setting, which stays\n");
  } else {
    const TuneRow& row = rows[best];
    fmt::print("best: {} {}, {}: {:.3f} ms a token less ({:.3f} to {:.3f})\n",
               policy_names()[size_t(row.setting.policy.kind)], half_life_of(row.setting.policy),
               budget_words(subject, row.setting), row.gain_ms.mean, row.gain_ms.low(),
               row.gain_ms.high());
  }
}

nlohmann::ordered_json json_of(const TuneSubject& subject, std::span<const TuneRow> rows,
                               size_t best) {
  nlohmann::ordered_json out = {{"tokens", decode_steps(subject.trace)},
                                {"miss_ms", subject.costs.miss_ms},
                                {"rest_ms", subject.costs.rest_ms},
                                {"costs_from", subject.costs_from},
                                {"confidence", kTuneConfidence},
                                {"best", best},
                                {"results", nlohmann::ordered_json::array()}};
  for (const TuneRow& row : rows) {
    out["results"].push_back({{"policy", policy_names()[size_t(row.setting.policy.kind)]},
                              {"half_life", row.setting.policy.half_life},
                              {"budget_bytes", row.setting.budget_bytes},
                              {"hit_rate", row.hit_rate},
                              {"misses_per_token", row.misses_per_token},
                              {"ms_per_token", row.ms_per_token},
                              {"gain_ms", row.gain_ms.mean},
                              {"gain_ms_low", row.gain_ms.low()},
                              {"gain_ms_high", row.gain_ms.high()}});
  }
  return out;
}

void write_policy(const std::string& path, const Config& config) {
  const std::string yaml = dump_config(config);
  OutputFile file(path);
  file.write(0, std::as_bytes(std::span(yaml)));
  file.commit();
  fmt::print(stderr, "wrote {}\n", path);
}

void run_tune(const TuneFlags& flags) {
  for (const std::string& name : flags.policies) {
    if (name == "score" || name == "lru" || name == "lfu") continue;
    throw ConfigError(
        fmt::format("--policies: found \"{}\", expected some of score, lru, lfu", name));
  }
  if (flags.from.is_live == !flags.from.trace.empty()) {
    throw ConfigError("expected one of --trace F, --live");
  }
  const TuneSubject subject =
      flags.from.is_live ? subject_of_engine(flags.from) : subject_of_trace(flags.from);
  const std::vector<Candidate> candidates = candidates_of(subject, flags);
  std::vector<TuneSetting> settings;
  for (const Candidate& candidate : candidates) settings.push_back(candidate.setting);
  std::vector<TuneRow> rows;
  {
    ProgressBar bar;
    rows = tune(subject.trace, settings, subject.costs, [&](size_t i) {
      bar.update(static_cast<int64_t>(i), std::ssize(settings), "replays");
    });
  }
  const size_t best = best_row(rows);
  std::vector<std::string> applied;
  // The file first: what an engine runs with should be there to be read.
  if (!flags.output.empty()) write_policy(flags.output, candidates[best].config);
  if (flags.apply && best != 0) {
    applied = change_engine(find_engine(runtime_folders(), flags.from.pid), subject.present,
                            candidates[best].config);
  }
  if (flags.json) {
    nlohmann::ordered_json out = json_of(subject, rows, best);
    if (flags.apply) out["applied"] = applied;
    fmt::print("{}\n", out.dump());
    return;
  }
  print_table(subject, rows, best);
  if (flags.apply && best != 0) {
    fmt::print(
        "the engine goes on with it: {}\n",
        applied.empty() ? "it had these settings" : fmt::format("{}", fmt::join(applied, ", ")));
  }
}

}  // namespace

void add_tune_command(CLI::App& app) {
  const auto o = std::make_shared<TuneFlags>();
  CLI::App* command =
      app.add_subcommand("tune", "Cache settings that would have served a recorded routing better");
  command->add_option("--trace", o->from.trace, "a trace (run --trace F, trace import)");
  command->add_flag(
      "--live", o->from.is_live,
      "the engine that runs: the tokens that it decodes now, and its own costs; not of one "
      "on a card, whose ring does not name all its picks");
  command->add_option("--pid", o->from.pid,
                      "the engine's process (default: the only one there is)");
  command->add_option("--seconds", o->from.seconds, "with --live: watch for at most so long")
      ->capture_default_str()
      ->check(in_range(0.1, 1e6));
  command->add_option("-m,--model", o->from.model,
                      "its model, to measure on this machine what a miss costs");
  command->add_option("--miss-ms", o->from.miss_ms, "what a miss costs, in ms, instead")
      ->check(in_range(1e-6, 1e6));
  command->add_option("--config", o->from.config_file, "the present settings: a YAML file");
  command
      ->add_option("--set", o->from.sets, "one of the present settings: key=value; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--ram", o->from.ram, "the memory that experts have at present: 8GiB, 20%");
  const auto list = [&](const char* name, auto& values, const char* text) {
    return command->add_option(name, values, text)->delimiter(',')->allow_extra_args(false);
  };
  list("--budget", o->budgets, "other memory to try: 8GiB,12GiB (default: only the present)");
  list("--policies", o->policies, "some of score,lru,lfu (default: all)");
  list("--half-life", o->half_lives,
       "of score, in tokens; 0: chosen while running (default: 0,4,8,16,32,64)")
      ->check(in_range(0.0, 1e6));
  command
      ->add_option("--tokens", o->from.tokens,
                   "replay the last so many decoded tokens (default: 8192, with --live 1024)")
      ->check(CLI::Range(kTuneTokensLeast, INT64_C(1) << 30));
  command->add_option("-o,--output", o->output, "write the settings that came out best (.yaml)");
  command->add_flag("--apply", o->apply,
                    "change the engine that runs to it; what is resident stays so");
  command->add_flag("--json", o->json, "one JSON object on stdout");
  command->footer(
      "Example:\n  hotset run -m M.gguf --ram 8GiB --trace chat.trace\n  hotset tune --trace "
      "chat.trace -m M.gguf --ram 8GiB --budget 12GiB -o policy.yaml\n  hotset run -m M.gguf "
      "--config policy.yaml\n  hotset tune --live --apply\n\nSearched are policy, half-life and "
      "memory. There is no margin or bound on insertions to\nsearch: a missed expert has been read "
      "anyway, so keeping it costs no copy.");
  command->callback([o] { run_tune(*o); });
}

}  // namespace hotset
