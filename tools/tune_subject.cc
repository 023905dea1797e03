#include "tools/tune_subject.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "profiler/live_routing.h"
#include "profiler/ring_reader.h"
#include "tools/cache_folder.h"
#include "tools/miss_cost.h"
#include "tools/model_options.h"
#include "tools/progress.h"
#include "tools/size.h"

namespace hotset {
namespace {

constexpr int64_t kTraceTokens = 8192, kLiveTokens = 1024;

Config config_of(const TuneFrom& from) {
  Config config;
  load_settings(config, from.config_file, from.sets);
  if (from.ram) config.ram = *from.ram;
  check_config(config);
  return config;
}

// With a model: its sizes, its share of this machine's memory, and a measurement.
void look_at_model(TuneSubject& subject, const TuneFrom& from) {
  const ModelDescription description = open_model(from.model);
  const MemoryBudget budget = memory_budget(subject.present, memory_room());
  EnginePlan plan = plan_engine(subject.present, description, budget);
  plan.options.reads = reads_for(plan.memory, description, budget);
  const TraceHeader& h = subject.trace.header;
  const ModelConfig& c = description.config;
  if (h.layers != c.num_hidden_layers || h.experts != c.num_experts ||
      h.top_k != c.num_experts_per_tok) {
    throw Error(fmt::format(
        "{}: found {} layers of {} experts, top-{}, expected {} of {}, top-{}, as in {}",
        from.trace, h.layers, h.experts, h.top_k, c.num_hidden_layers, c.num_experts,
        c.num_experts_per_tok, from.model));
  }
  for (const SlotPlan::Class& sizes : plan.memory.experts.classes) {
    for (const int32_t layer : sizes.layers) subject.expert_bytes[layer] = sizes.slot_bytes;
  }
  subject.has_sizes = true;
  subject.present_budget_bytes = plan.memory.experts.slot_bytes_total;
  if (from.miss_ms) return;
  const MissCost cost = measure_miss(description, plan.options);
  if (cost.misses == 0) throw Error(from.model + ": no expert could be missed, so none was timed");
  subject.costs.miss_ms = cost.ms;
  subject.costs_from =
      fmt::format("measured: the median of {} experts read and packed", cost.misses);
}

void check_tokens(const RoutingTrace& trace, const std::string& name) {
  const int64_t steps = decode_steps(trace);
  if (steps >= kTuneTokensLeast) return;
  throw Error(fmt::format("{}: found {} decoded tokens, expected at least {}: fewer say nothing",
                          name, steps, kTuneTokensLeast));
}

// An engine's newest ring.
std::unique_ptr<RingReader> ring_of(const EngineAddress& engine) {
  std::unique_ptr<RingReader> newest;
  for (const std::string& path : find_rings(engine.folder)) {
    if (path.find(fmt::format("/{}-", engine.pid)) == std::string::npos) continue;
    auto reader = std::make_unique<RingReader>(path);
    if (reader->writer_is_alive()) newest = std::move(reader);
  }
  if (!newest) {
    throw Error(fmt::format("{}: process {} has no ring, expected one: profiler.ring is 0 there",
                            engine.folder, engine.pid));
  }
  return newest;
}

// Watches until there are tokens enough, the time is over, or the engine ends.
void watch(LiveRouting& routing, RingReader& ring, int64_t tokens, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  std::vector<Record> records;
  ProgressBar bar;
  while (true) {
    const bool is_alive = ring.writer_is_alive();  // before its last records are read
    records.clear();
    ring.drain(records);
    routing.absorb(records, [](double) {});
    bar.update(routing.tokens(), tokens, "watching");
    if (routing.tokens() >= tokens || !is_alive || Clock::now() >= end) return;
    constexpr int kPauseMs = 50;
    poll(nullptr, 0, kPauseMs);
  }
}

}  // namespace

int64_t TuneSubject::all_bytes() const {
  int64_t bytes = 0;
  for (const int64_t expert : expert_bytes) bytes += expert * trace.header.experts;
  return bytes;
}

int64_t TuneSubject::budget_of(const std::string& text) const {
  const std::optional<Size> size = Size::parse(text);
  if (!size) {
    throw ConfigError(
        fmt::format("--budget: found \"{}\", expected sizes such as 8GiB or 50%", text));
  }
  if (!size->is_percent() && !has_sizes) {
    throw ConfigError(
        fmt::format("the trace does not know how large experts are: found {}, "
                    "expected a part such as 20%, or -m with the model",
                    text));
  }
  return size->bytes_of(all_bytes());
}

TuneSubject subject_of_trace(const TuneFrom& from) {
  TuneSubject subject;
  subject.present = config_of(from);
  subject.trace = load_trace(from.trace);
  if (!subject.trace.damage.empty()) fmt::print(stderr, "hotset: {}\n", subject.trace.damage);
  subject.trace = last_steps(subject.trace, from.tokens.value_or(kTraceTokens));
  check_tokens(subject.trace, from.trace);
  std::vector<int64_t>& bytes = subject.expert_bytes;
  bytes = subject.trace.header.expert_bytes;
  // Parts are as good as bytes where all experts are alike.
  subject.has_sizes = std::find(bytes.begin(), bytes.end(), 0) == bytes.end();
  if (!subject.has_sizes) std::fill(bytes.begin(), bytes.end(), 1);
  if (from.miss_ms) {
    subject.costs.miss_ms = *from.miss_ms;
    subject.costs_from = "given";
  }
  if (!from.model.empty()) {
    look_at_model(subject, from);
    return subject;
  }
  if (!from.miss_ms) {
    throw ConfigError(
        "what a miss costs here is not known: expected -m MODEL, to measure it, or --miss-ms");
  }
  if (subject.present.ram == "auto") {
    throw ConfigError(
        "ram: auto depends on the model: expected --ram with the memory that experts have at "
        "present, or -m MODEL");
  }
  subject.present_budget_bytes = subject.budget_of(subject.present.ram);
  return subject;
}

TuneSubject subject_of_stats(const nlohmann::ordered_json& stats) {
  TuneSubject subject;
  try {
    load_config_text(subject.present, stats.at("settings").dump(), "the engine's settings");
    const nlohmann::ordered_json& experts = stats.at("experts");
    subject.expert_bytes = experts.at("layer_expert_bytes").get<std::vector<int64_t>>();
    subject.present_budget_bytes = experts.at("budget_bytes");
  } catch (const nlohmann::json::exception& error) {
    throw Error(std::string("the engine's answer to stats is not that of this version: ") +
                error.what());
  }
  check_config(subject.present);
  return subject;
}

TuneSubject subject_of_engine(const TuneFrom& from) {
  if (!from.config_file.empty() || !from.sets.empty() || from.ram || !from.model.empty()) {
    throw ConfigError(
        "--live: the engine has its own model and settings: expected neither -m, "
        "--ram, --config nor --set");
  }
  const EngineAddress engine = find_engine(runtime_folders(), from.pid);
  const nlohmann::ordered_json stats = ask(engine, {});
  if (!stats.value("card", nlohmann::ordered_json()).is_null()) {
    throw Error(
        fmt::format("--live: process {} computes on a card, and its ring names only the experts "
                    "that the card lacked: expected an engine on the CPU; a trace has them all: "
                    "hotset run --trace F, then hotset simulate --trace F",
                    engine.pid));
  }
  TuneSubject subject = subject_of_stats(stats);
  const std::unique_ptr<RingReader> ring = ring_of(engine);
  const int64_t tokens = from.tokens.value_or(kLiveTokens);
  LiveRouting routing(ring->header(), tokens);
  if (std::ssize(subject.expert_bytes) != ring->header().layers) {
    throw Error(ring->path() + ": has not the layers that the engine says it has");
  }
  watch(routing, *ring, tokens, from.seconds);
  subject.trace = routing.trace();
  subject.trace.header.expert_bytes = subject.expert_bytes;
  check_tokens(subject.trace, fmt::format("process {}, in {} s", engine.pid, from.seconds));
  subject.costs = routing.costs();
  subject.costs_from = fmt::format("what misses cost this engine in {} tokens", routing.tokens());
  if (from.miss_ms) {
    subject.costs.miss_ms = *from.miss_ms;
    subject.costs_from = "given";
  }
  return subject;
}

std::vector<std::string> change_engine(const EngineAddress& engine, const Config& present,
                                       const Config& wanted, int timeout_ms) {
  ControlRequest request;
  request.command = ControlCommand::kSet;
  if (wanted.ram != present.ram) request.settings.push_back("ram=" + wanted.ram);
  if (wanted.cache.policy != present.cache.policy) {
    request.settings.push_back("cache.policy=" + wanted.cache.policy);
  }
  if (wanted.cache.half_life != present.cache.half_life) {
    request.settings.push_back(fmt::format("cache.half_life={}", wanted.cache.half_life));
  }
  return ask(engine, request, timeout_ms).at("changed").get<std::vector<std::string>>();
}

}  // namespace hotset
