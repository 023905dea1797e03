#include "tools/model_options.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "tools/cache_folder.h"
#include "tools/card_choice.h"
#include "tools/cpu_topology.h"
#include "tools/progress.h"
#include "tools/sidecars.h"
#include "tools/size.h"

namespace hotset {
namespace {

double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

// Threads that may write beside the step's: those that compute, that read, and some to spare.
int ring_threads(int compute_threads) {
  constexpr int kOthers = 16;
  return 2 * compute_threads + kOthers;
}

// Nobody can watch without it, but that is no reason not to answer.
std::unique_ptr<Ring> make_ring(const Config& config, const ModelDescription& description,
                                int threads) {
  if (config.profiler.ring == 0) return nullptr;
  const ModelConfig& model = description.config;
  RingHeader header;
  header.layers = static_cast<int32_t>(model.num_hidden_layers);
  header.experts_per_layer = static_cast<int32_t>(model.num_experts);
  header.picks_per_row = static_cast<int32_t>(model.num_experts_per_tok);
  header.threads = threads;
  const std::string name = std::filesystem::path(description.path).filename();
  name.copy(header.model, sizeof header.model - 1);
  std::string(HOTSET_PROGRAM).copy(header.program, sizeof header.program - 1);
  try {
    return std::make_unique<Ring>(runtime_folder(), header, config.profiler.ring,
                                  ring_threads(threads));
  } catch (const Error& error) {
    fmt::print(stderr, "hotset: this run cannot be watched: {}\n", error.what());
    return nullptr;
  }
}

}  // namespace

FileReads reads_for(const MemoryPlan& plan, const ModelDescription& description,
                    const MemoryBudget& budget) {
  const auto file_bytes = static_cast<int64_t>(description.file_bytes());
  const bool fits = !budget.room || plan.total() + file_bytes <= budget.room->bytes;
  return fits ? FileReads::kBuffered : FileReads::kDirect;
}

void ModelOptions::add_to(CLI::App& command) {
  command.add_option("-m,--model", model, "a .gguf file, or a Hugging Face folder")->required();
  command.add_option("--threads", threads, "compute threads (default: physical cores)");
  command.add_option("--ctx", ctx,
                     "positions a session can hold (default: the model's, up to 8192)");
  command.add_option("--ram", ram,
                     "memory for routed experts: 16GiB, 16GB, 50% (default: what fits)");
  command.add_option("--device", device,
                     "auto, cpu, cuda, emulated (default: a card if there is one)");
  command.add_option("--vram", vram,
                     "memory of the card: 10GB, 50% of all experts (default: what is free)");
  command.add_option("--trace", trace,
                     "record which experts are picked, for hotset simulate and hotset trace");
  command.add_option(
      "--workload", workload,
      "a name for this kind of use: it starts with what was learned under that name");
  command.add_option("--config", config_file, "a YAML file of settings (see configs/default.yaml)");
  command.add_option("--set", sets, "one setting: key=value; may be repeated")
      ->allow_extra_args(false);
}

std::unique_ptr<TraceRecorder> ModelOptions::record(Engine& engine) const {
  return trace.empty() ? nullptr : std::make_unique<TraceRecorder>(trace, engine);
}

Config ModelOptions::config() const {
  Config config;
  load_settings(config, config_file, sets);
  if (threads) config.cpu.threads = *threads;
  if (ctx) config.ctx = *ctx;
  if (device) config.device = *device;
  if (ram) config.ram = *ram;
  if (vram) config.vram = *vram;
  if (workload) config.scores.workload = *workload;
  check_config(config);
  return config;
}

int compute_threads(const Config& config) {
  return config.cpu.threads > 0 ? config.cpu.threads : usable_cores();
}

EnginePlan plan_engine(const Config& config, const ModelDescription& description,
                       const MemoryBudget& budget) {
  EngineOptions options;
  options.threads = compute_threads(config);
  options.pinning = config.cpu.pin ? Pinning::kCores : Pinning::kNone;
  options.isa = config.cpu.isa;
  options.context = config.ctx;
  options.kv_type = config.kv.type == "f32" ? KvType::kF32 : KvType::kF16;
  options.chunk = config.prompt.chunk;
  options.policy = policy_options(config.cache);
  options.prefetch = config.cache.prefetch == "on"    ? Prefetch::kOn
                     : config.cache.prefetch == "off" ? Prefetch::kOff
                                                      : Prefetch::kAuto;
  options.io_threads = config.cache.io_threads;
  options.on_notice = [](const std::string& text) { fmt::print(stderr, "{}\n", text); };
  const auto planned = [&] {
    MemoryPlan plan = Engine::plan(description, options);
    if (config.profiler.ring > 0) {
      plan.ring = Ring::bytes_for(config.profiler.ring, ring_threads(options.threads));
    }
    return plan;
  };
  const MemoryPlan all = planned();
  const bool takes_all = config.ram == "auto" ? all.total() <= budget.most_bytes()
                                              : Size::parse(config.ram)->bytes_of(100) == 100;
  if (takes_all) return {options, all};
  // Where not all experts are resident the rest takes more: a prompt goes through as a whole.
  options.expert_bytes = 0;
  const MemoryPlan least = planned();
  options.expert_bytes = expert_bytes_of(config.ram, least.experts.expert_bytes_total,
                                         least.total() - least.experts.slot_bytes_total, budget);
  return {options, planned()};
}

LoadedModel load_with_card_or_without(const Config& config, const std::function<Config()>& reread,
                                      const std::function<LoadedModel(const Config&)>& load) {
  const auto load_somewhere = [&] {
    std::string reason;
    try {
      return load(config);
    } catch (const CardError& error) {
      if (config.device != "auto") throw;
      reason = error.what();
    }
    Config without = config;
    without.device = "cpu";
    LoadedModel loaded = load(without);
    loaded.device_notice = "device: cpu, since " + reason;
    return loaded;
  };
  LoadedModel loaded = load_somewhere();
  loaded.settings = std::make_unique<LiveSettings>(*loaded.engine, config, reread);
  return loaded;
}

namespace {

LoadedModel load_on(const std::string& path, const Config& config,
                    const std::function<void(const ModelDescription&, EngineOptions&)>& prepare,
                    bool is_reference) {
  LoadedModel loaded;
  loaded.start = std::chrono::steady_clock::now();
  ModelDescription description = open_model(path);
  if (is_reference) description = reference(std::move(description));
  if (description.vocabulary) loaded.tokenizer.emplace(*description.vocabulary);
  loaded.budget = memory_budget(config, memory_room());
  EnginePlan plan = plan_engine(config, description, loaded.budget);
  if (prepare) prepare(description, plan.options);
  const CardChoice choice = choose_card(config, plan.memory);
  plan.options.card = loaded.card = choice.card;
  plan.options.card_room = choice.room;
  plan.options.card_prompts.ring = config.prompt.ring;
  if (config.device == "auto") {
    plan.options.before_leaving_card = [config](const MemoryPlan& without) {
      check_fits(without, memory_budget(config, memory_room()));
    };
  }
  loaded.device = choice.name;
  loaded.device_notice = choice.notice;
  check_fits(plan.memory, loaded.budget);
  plan.options.reads = reads_for(plan.memory, description, loaded.budget);
  if (config.scores.save == "auto") {
    const uint64_t fingerprint = fingerprint_of(description);
    if (const auto file = scores_path(fingerprint, config.scores.workload)) {
      loaded.scores = std::make_unique<ScoreKeeper>(*file, description, fingerprint);
      plan.options.expert_scores = loaded.scores->restore();
    }
  }
  std::unique_ptr<Sidecar> sidecar;
  if (config.pack.sidecar == "auto" && !is_reference) {
    sidecar = find_or_write_sidecar(description, sidecar_places(description), SidecarLimits{});
  }
  std::unique_ptr<Ring> ring = make_ring(config, description, plan.options.threads);
  if (ring) loaded.ring_path = ring->path();
  ProgressBar bar;
  loaded.engine = std::make_unique<Engine>(
      std::move(description), plan.options,
      [&](int64_t done, int64_t all, const char* what) { bar.update(done, all, what); },
      std::move(sidecar), std::move(ring));
  if (loaded.card && !loaded.card->is_emulated()) {
    const std::string notice =
        spill_notice(loaded.card->memory_info(), *loaded.engine->memory_plan().card);
    if (!notice.empty()) loaded.device_notice += "\n" + notice;
  }
  return loaded;
}

}  // namespace

LoadedModel load_model(const std::string& path, const Config& config,
                       const std::function<Config()>& reread,
                       const std::function<void(const ModelDescription&, EngineOptions&)>& prepare,
                       bool is_reference) {
  LoadedModel loaded = load_with_card_or_without(
      config, reread, [&](const Config& on) { return load_on(path, on, prepare, is_reference); });
  loaded.attendant =
      std::make_unique<Attendant>(*loaded.engine, *loaded.settings, loaded.scores.get(),
                                  config.scores.every_s, runtime_folder());
  loaded.load_ms = ms_since(loaded.start);
  return loaded;
}

double LoadedModel::wait_until_resident() const {
  ProgressBar bar;
  engine->wait_until_resident(
      [&](int64_t done, int64_t all, const char* what) { bar.update(done, all, what); });
  return ms_since(start);
}

std::string read_text(const std::string& path) {
  std::ostringstream text;
  if (path == "-") {
    if (std::cin.peek() != EOF) text << std::cin.rdbuf();
    return text.str();
  }
  std::ifstream file(path, std::ios::binary);
  if (!file || (file.peek() != EOF && !(text << file.rdbuf())) || file.bad()) {
    throw Error(path + ": cannot be read, expected a text file");
  }
  return text.str();
}

std::vector<int32_t> encode_plain(const Tokenizer& tokenizer, const std::string& text,
                                  SpecialTokens specials) {
  std::vector<int32_t> ids = tokenizer.encode(text, specials);
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  if (vocabulary.add_bos && vocabulary.bos_id >= 0) ids.insert(ids.begin(), vocabulary.bos_id);
  return ids;
}

}  // namespace hotset
