// `hotset tune`: which cache settings would have served a recorded routing best on this machine.
// Method: profiler/tune.h. A miss is priced by what one costs here: measured with -m on the model's
// own file, or given.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "profiler/tune.h"
#include "runtime/weights/output_file.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/miss_cost.h"
#include "tools/model_options.h"
#include "tools/progress.h"
#include "tools/size.h"

namespace hotset {
namespace {

struct TuneFlags {
  std::string trace, model, config_file, output;
  std::vector<std::string> sets, budgets;
  std::optional<std::string> ram;
  std::vector<std::string> policies = {"score", "lru", "lfu"};
  std::vector<double> half_lives = {0, 4, 8, 16, 32, 64};
  std::optional<double> miss_ms;
  int64_t tokens = 8192;
  bool json = false;
};

// What is tuned, wherever it comes from.
struct Subject {
  Config present;
  RoutingTrace trace;
  std::vector<int64_t> expert_bytes;  // [layers]
  int64_t present_budget_bytes = 0;
  TuneCosts costs;
  std::string costs_from;  // for people
};

struct Candidate {
  Config config;
  TuneSetting setting;
};

Config config_of(const TuneFlags& flags) {
  Config config;
  if (!flags.config_file.empty()) load_config(config, flags.config_file);
  for (const std::string& assignment : flags.sets) set_config(config, assignment);
  if (flags.ram) config.ram = *flags.ram;
  check_config(config);
  return config;
}

int64_t all_bytes(const Subject& subject) {
  int64_t bytes = 0;
  for (const int64_t expert : subject.expert_bytes) bytes += expert * subject.trace.header.experts;
  return bytes;
}

int64_t budget_of(const std::string& text, const Subject& subject, bool has_sizes) {
  const std::optional<Size> size = Size::parse(text);
  if (!size) {
    throw ConfigError(
        fmt::format("--budget: found \"{}\", expected sizes such as 8GiB or 50%", text));
  }
  if (!size->is_percent() && !has_sizes) {
    throw ConfigError(
        "the trace does not know how large experts are: expected a part such as 20% "
        "instead of " +
        text + ", or -m with the model");
  }
  return size->bytes_of(all_bytes(subject));
}

// With a model its sizes, its share of this machine's memory, and a measurement.
void look_at_model(Subject& subject, const TuneFlags& flags) {
  const ModelDescription description = open_model(flags.model);
  const MemoryBudget budget = memory_budget(subject.present, memory_room());
  EnginePlan plan = plan_engine(subject.present, description, budget);
  plan.options.reads = reads_for(plan.memory, description, budget);
  const TraceHeader& h = subject.trace.header;
  const ModelConfig& c = description.config;
  if (h.layers != c.num_hidden_layers || h.experts != c.num_experts ||
      h.top_k != c.num_experts_per_tok) {
    throw Error(
        fmt::format("{}: found {} layers of {} experts, top-{}, expected {} of {}, top-{}, "
                    "as in {}",
                    flags.trace, h.layers, h.experts, h.top_k, c.num_hidden_layers, c.num_experts,
                    c.num_experts_per_tok, flags.model));
  }
  for (const SlotPlan::Class& sizes : plan.memory.experts.classes) {
    for (const int32_t layer : sizes.layers) subject.expert_bytes[layer] = sizes.slot_bytes;
  }
  subject.present_budget_bytes = plan.memory.experts.slot_bytes_total;
  if (flags.miss_ms) return;
  const MissCost cost = measure_miss(description, plan.options);
  if (cost.misses == 0) throw Error(flags.model + ": no expert could be missed, so none was timed");
  subject.costs.miss_ms = cost.ms;
  subject.costs_from =
      fmt::format("measured: the median of {} experts read and packed", cost.misses);
}

Subject subject_of_trace(const TuneFlags& flags) {
  Subject subject;
  subject.present = config_of(flags);
  subject.trace = load_trace(flags.trace);
  if (!subject.trace.damage.empty()) fmt::print(stderr, "hotset: {}\n", subject.trace.damage);
  subject.expert_bytes = subject.trace.header.expert_bytes;
  if (flags.miss_ms) {
    subject.costs.miss_ms = *flags.miss_ms;
    subject.costs_from = "given";
  }
  if (!flags.model.empty()) {
    look_at_model(subject, flags);
    return subject;
  }
  if (!flags.miss_ms) {
    throw ConfigError(
        "what a miss costs here is not known: expected -m MODEL, to measure it, or "
        "--miss-ms");
  }
  const bool has_sizes = std::find(subject.expert_bytes.begin(), subject.expert_bytes.end(), 0) ==
                         subject.expert_bytes.end();
  // Parts are as good as bytes where all experts are alike.
  if (!has_sizes) std::fill(subject.expert_bytes.begin(), subject.expert_bytes.end(), 1);
  if (subject.present.ram == "auto") {
    throw ConfigError(
        "ram: auto depends on the model: expected --ram with the memory that experts "
        "have at present, or -m MODEL");
  }
  subject.present_budget_bytes = budget_of(subject.present.ram, subject, has_sizes);
  return subject;
}

// The present setting first, then each other one once.
std::vector<Candidate> candidates_of(const Subject& subject, const TuneFlags& flags) {
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
  const bool has_sizes = all_bytes(subject) > int64_t{h.layers} * h.experts;
  for (const std::string& text : flags.budgets) {
    add_policies(text, budget_of(text, subject, has_sizes));
  }
  return all;
}

std::string half_life_of(const PolicyOptions& policy) {
  if (policy.kind != PolicyKind::kScore) return "";
  return policy.half_life == 0 ? "auto" : fmt::format("{:g}", policy.half_life);
}

std::string budget_words(const Subject& subject, const TuneSetting& setting) {
  const int64_t all = all_bytes(subject);
  const double part = 100 * static_cast<double>(setting.budget_bytes) / static_cast<double>(all);
  return fmt::format("{} ({:.0f} %)", human_bytes(setting.budget_bytes), part);
}

void print_table(const Subject& subject, std::span<const TuneRow> rows, size_t best) {
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

nlohmann::ordered_json json_of(const Subject& subject, std::span<const TuneRow> rows, size_t best) {
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
  Subject subject = subject_of_trace(flags);
  subject.trace = last_steps(subject.trace, flags.tokens);
  if (const int64_t steps = decode_steps(subject.trace); steps < kTuneTokensLeast) {
    throw Error(fmt::format("{}: found {} decoded tokens, expected at least {}: fewer say nothing",
                            flags.trace, steps, kTuneTokensLeast));
  }
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
  if (flags.json) {
    fmt::print("{}\n", json_of(subject, rows, best).dump());
  } else {
    print_table(subject, rows, best);
  }
  if (!flags.output.empty()) write_policy(flags.output, candidates[best].config);
}

}  // namespace

void add_tune_command(CLI::App& app) {
  const auto o = std::make_shared<TuneFlags>();
  CLI::App* command =
      app.add_subcommand("tune", "Cache settings that would have served a recorded routing better");
  command->add_option("--trace", o->trace, "a trace (run --trace F, trace import)")->required();
  command->add_option("-m,--model", o->model,
                      "its model, to measure on this machine what a miss costs");
  command->add_option("--miss-ms", o->miss_ms, "what a miss costs, in ms, instead")
      ->check(CLI::Range(1e-6, 1e6));
  command->add_option("--config", o->config_file, "the present settings: a YAML file");
  command->add_option("--set", o->sets, "one of the present settings: key=value; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--ram", o->ram, "the memory that experts have at present: 8GiB, 20%");
  const auto list = [&](const char* name, auto& values, const char* text) {
    return command->add_option(name, values, text)->delimiter(',')->allow_extra_args(false);
  };
  list("--budget", o->budgets, "other memory to try: 8GiB,12GiB (default: only the present)");
  list("--policies", o->policies, "some of score,lru,lfu (default: all)");
  list("--half-life", o->half_lives,
       "of score, in tokens; 0: chosen while running (default: 0,4,8,16,32,64)")
      ->check(CLI::Range(0.0, 1e6));
  command->add_option("--tokens", o->tokens, "replay the last so many decoded tokens")
      ->capture_default_str()
      ->check(CLI::Range(kTuneTokensLeast, INT64_C(1) << 30));
  command->add_option("-o,--output", o->output, "write the settings that came out best (.yaml)");
  command->add_flag("--json", o->json, "one JSON object on stdout");
  command->footer(
      "Example:\n  hotset run -m M.gguf --ram 8GiB --trace chat.trace\n  hotset tune --trace "
      "chat.trace -m M.gguf --ram 8GiB --budget 12GiB -o policy.yaml\n  hotset run -m M.gguf "
      "--config policy.yaml");
  command->callback([o] { run_tune(*o); });
}

}  // namespace hotset
