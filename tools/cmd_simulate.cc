// `hotset simulate`: what each policy would have made of a recorded routing, beside the best that
// any could. Method: each policy replays the whole trace once from an empty cache, event by event
// (profiler/simulator.h); nothing is left out as a warm-up, so the compulsory misses are in every
// figure. The static policy's profile is the trace's own use unless --profile names another trace:
// what it gets from its own is more than it could have known.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "profiler/simulator.h"
#include "runtime/weights/output_file.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/in_range.h"
#include "tools/interrupt.h"
#include "tools/line_plot.h"
#include "tools/size.h"

namespace hotset {
namespace {

struct SimulateOptions {
  std::string trace, profile, plot, split = "equal";
  std::vector<std::string> slots = {"5%", "10%", "20%", "30%"};
  std::vector<std::string> policies = {"score", "lru", "lfu", "static"};
  std::vector<double> lambdas = {0};
  double half_life = 0;
  bool json = false;
};

struct Row {
  std::string policy;
  int32_t slots = 0;  // a layer
  double lambda = 0, seconds = 0;
  Replay replay = {};
};

// "10%" of a layer's experts, or a number of slots a layer.
int32_t slots_of(const std::string& text, int32_t experts) {
  const std::optional<Size> size = Size::parse(text);
  int64_t slots = size ? size->bytes_of(experts) : 0;
  // The least part of a small layer is a slot.
  if (slots == 0 && size && size->bytes_of(INT64_C(1) << 40) > 0) slots = 1;
  if (slots < 1 || slots > experts) {
    throw ConfigError(
        fmt::format("--slots: found \"{}\", expected 1 to {} slots a layer, or a part such as 10%",
                    text, experts));
  }
  return static_cast<int32_t>(slots);
}

class Simulation {
 public:
  Simulation(const SimulateOptions& options, const RoutingTrace& trace)
      : options_(options), trace_(trace) {
    const bool needs_profile = std::find(options.policies.begin(), options.policies.end(),
                                         "static") != options.policies.end();
    if (!needs_profile) return;
    profile_ = options.profile.empty() ? count_uses(trace) : profile_of(options.profile);
  }

  std::vector<Row> run() const {
    std::vector<Row> rows;
    const SlotSplit split = options_.split == "equal" ? SlotSplit::kEqual : SlotSplit::kShared;
    for (const std::string& text : options_.slots) {
      const int32_t slots = slots_of(text, trace_.header.experts);
      const std::vector<ReplayPool> pools = slot_pools(trace_.header, slots, split);
      for (const std::string& name : options_.policies) {
        for (const double lambda : options_.lambdas) {
          rows.push_back(timed({name, slots, lambda}, [&] {
            return replay(
                trace_, pools, [&](PolicyShape s) { return make(name, std::move(s)); }, lambda);
          }));
        }
      }
      rows.push_back(timed({"belady", slots, 0}, [&] { return replay_belady(trace_, pools); }));
    }
    return rows;
  }

 private:
  template <class Work>
  static Row timed(Row row, const Work& work) {
    throw_if_interrupted();
    const auto start = std::chrono::steady_clock::now();
    row.replay = work();
    row.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return row;
  }

  std::unique_ptr<Policy> make(const std::string& name, PolicyShape shape) const {
    auto policy = make_policy({*policy_named(name), options_.half_life}, std::move(shape));
    if (name == "static") policy->restore(profile_);
    return policy;
  }

  std::vector<float> profile_of(const std::string& path) const {
    const RoutingTrace other = load_trace(path);
    const TraceHeader &a = trace_.header, &b = other.header;
    if (a.layers != b.layers || a.experts != b.experts) {
      throw Error(fmt::format("{}: found {} layers of {} experts, expected {} of {} as in {}", path,
                              b.layers, b.experts, a.layers, a.experts, options_.trace));
    }
    return count_uses(other);
  }

  const SimulateOptions& options_;
  const RoutingTrace& trace_;
  std::vector<float> profile_;
};

double per_token(const Replay& replay, int64_t count) {
  return replay.tokens == 0 ? 0.0 : static_cast<double>(count) / static_cast<double>(replay.tokens);
}

nlohmann::ordered_json json_of(const Row& row, int32_t experts) {
  const Replay& r = row.replay;
  return {{"policy", row.policy},
          {"slots", row.slots},
          {"share", static_cast<double>(row.slots) / experts},
          {"lambda", row.lambda},
          {"accesses", r.accesses},
          {"hits", r.hits},
          {"insertions", r.insertions},
          {"hit_rate", r.hit_rate()},
          {"hits_per_token_layer", r.per_event(r.hits)},
          {"insertions_per_token_layer", r.per_event(r.insertions)},
          {"gain", r.gain(row.lambda)},
          {"miss_bytes_per_token", per_token(r, r.miss_bytes)},
          {"accesses_per_second", static_cast<double>(r.accesses) / row.seconds}};
}

void print_table(const SimulateOptions& options, const RoutingTrace& trace,
                 const std::vector<Row>& rows, int64_t compulsory) {
  const TraceHeader& h = trace.header;
  const Replay& any = rows.front().replay;
  fmt::print("{} decoded tokens, {} layers of {} experts, top-{}; slots {}\n", any.tokens, h.layers,
             h.experts, h.top_k,
             options.split == "equal" ? "equal for each layer" : "shared by the layers");
  fmt::print("{:<8}{:<9}{:>7}{:>10}{:>13}{:>16}{:>9}{:>18}\n", "slots", "policy", "lambda", "hits",
             "hits/layer", "inserts/layer", "J", "missed a token");
  for (const Row& row : rows) {
    const Replay& r = row.replay;
    fmt::print("{:<8}{:<9}{:>7.3g}{:>8.2f} %{:>13.3f}{:>16.3f}{:>9.3f}{:>18}\n", row.slots,
               row.policy, row.lambda, 100 * r.hit_rate(), r.per_event(r.hits),
               r.per_event(r.insertions), r.gain(row.lambda),
               r.miss_bytes == 0 ? fmt::format("{:.1f} experts", per_token(r, r.accesses - r.hits))
                                 : human_bytes(std::llround(per_token(r, r.miss_bytes))));
  }
  fmt::print("compulsory misses: {:.2f} % of {} accesses; belady: no policy hits more\n",
             any.accesses == 0
                 ? 0.0
                 : 100 * static_cast<double>(compulsory) / static_cast<double>(any.accesses),
             any.accesses);
}

void write_plot(const SimulateOptions& options, const RoutingTrace& trace, std::vector<Row> rows) {
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.slots < b.slots; });
  std::vector<PlotLine> lines;
  for (const Row& row : rows) {
    const bool is_priced = options.lambdas.size() > 1 && row.policy != "belady";
    const std::string name =
        is_priced ? fmt::format("{}, lambda {:.3g}", row.policy, row.lambda) : row.policy;
    auto line =
        std::find_if(lines.begin(), lines.end(), [&](const PlotLine& l) { return l.name == name; });
    if (line == lines.end()) line = lines.insert(line, PlotLine{name, {}});
    line->points.emplace_back(static_cast<double>(row.slots) / trace.header.experts,
                              row.replay.hit_rate());
  }
  const std::string svg =
      line_plot_svg("Hit rate of " + options.trace, "slots, of all experts", "hits", lines);
  OutputFile file(options.plot);
  file.write(0, std::as_bytes(std::span(svg)));
  file.commit();
}

void run_simulate(const SimulateOptions& options) {
  for (const std::string& name : options.policies) {
    if (policy_named(name)) continue;
    throw ConfigError(fmt::format("--policies: found \"{}\", expected some of {}", name,
                                  fmt::join(policy_names(), ", ")));
  }
  const RoutingTrace trace = load_trace(options.trace);
  if (!trace.damage.empty()) fmt::print(stderr, "hotset: {}\n", trace.damage);
  const std::vector<Row> rows = Simulation(options, trace).run();
  const int64_t compulsory = compulsory_misses(trace);
  if (options.json) {
    nlohmann::ordered_json out = {{"trace", options.trace},
                                  {"split", options.split},
                                  {"tokens", rows.front().replay.tokens},
                                  {"layers", trace.header.layers},
                                  {"experts", trace.header.experts},
                                  {"top_k", trace.header.top_k},
                                  {"compulsory_misses", compulsory},
                                  {"results", nlohmann::ordered_json::array()}};
    for (const Row& row : rows) out["results"].push_back(json_of(row, trace.header.experts));
    fmt::print("{}\n", out.dump());
  } else {
    print_table(options, trace, rows, compulsory);
  }
  if (!options.plot.empty()) write_plot(options, trace, rows);
}

}  // namespace

void add_simulate_command(CLI::App& app) {
  const auto o = std::make_shared<SimulateOptions>();
  CLI::App* command =
      app.add_subcommand("simulate", "Cache policies on a recorded routing, beside the best");
  command->add_option("--trace", o->trace, "a trace (run --trace F, trace import)")->required();
  const auto list = [&](const char* name, auto& values, const char* text) {
    command->add_option(name, values, text)->delimiter(',')->allow_extra_args(false);
  };
  list("--slots", o->slots, "slots a layer: parts of its experts, or numbers (5%,10%,20%,30%)");
  list("--policies", o->policies, "some of score,lru,lfu,static (default: all)");
  command->add_option("--lambda", o->lambdas, "prices of a copy, in hits (0)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(in_range(0.0, 1e6));
  command
      ->add_option("--split", o->split,
                   "equal: as many slots for each layer; shared: layers compete for them, as in "
                   "a running cache")
      ->capture_default_str()
      ->check(CLI::IsMember({"equal", "shared"}));
  command->add_option("--half-life", o->half_life, "of score, in tokens; 0: chosen while running")
      ->capture_default_str()
      ->check(in_range(0.0, 1e6));
  command->add_option("--profile", o->profile, "a trace to make static's profile of");
  command->add_option("--plot", o->plot, "write hit rate against slots (.svg)");
  command->add_flag("--json", o->json, "one JSON object on stdout");
  command->footer(
      "Example:\n  hotset simulate --trace chat.trace --slots 10%,20% --lambda 0,1 --plot "
      "hits.svg");
  command->callback([o] { run_simulate(*o); });
}

}  // namespace hotset
