// What the commands that compute share: the flags that name a model and change the configuration,
// and how an engine is made from them.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tools/attendant.h"
#include "tools/config.h"
#include "tools/live_settings.h"
#include "tools/memory_budget.h"
#include "tools/score_keeper.h"
#include "tools/trace_recorder.h"

namespace hotset {

struct ModelOptions {
  std::string model;

  // Flags; each stands for a configuration key and wins over --set, as that over the file.
  std::string config_file;
  std::vector<std::string> sets;
  std::optional<int32_t> threads;
  std::optional<int64_t> ctx;
  std::optional<std::string> device, ram, vram, workload;

  std::string trace;  // a file to record the routing into; "": none

  void add_to(CLI::App& command);
  Config config() const;  // checked
  // Records what the engine picks from now on; nothing if no trace was asked for.
  std::unique_ptr<TraceRecorder> record(Engine& engine) const;
};

int compute_threads(const Config& config);

struct EnginePlan {
  EngineOptions options;
  MemoryPlan memory;
};
// What `ram` comes to for a model. Need not fit (check_fits).
EnginePlan plan_engine(const Config& config, const ModelDescription& description,
                       const MemoryBudget& budget);

// Past the page cache where the file and what we take do not fit into memory together: it would be
// churned and never hit. Through it where they do: the next start is warm.
FileReads reads_for(const MemoryPlan& plan, const ModelDescription& description,
                    const MemoryBudget& budget);

struct LoadedModel {
  std::unique_ptr<Engine> engine;
  MemoryBudget budget;
  std::optional<Tokenizer> tokenizer;           // nothing: the file has no vocabulary
  std::chrono::steady_clock::time_point start;  // when the file was opened
  std::string ring_path;                        // empty: nobody can watch
  std::shared_ptr<CardRuntime> card;            // null: the CPU computes
  std::string device;                           // what computes: "cpu", "emulated", "cuda: NAME"
  std::string device_notice;                    // what to know of it, a line; or ""
  // The same now: a card may have been left.
  std::string device_now() const { return card && !engine->card() ? "cpu" : device; }
  double load_ms = 0;  // from then until the first step can run

  std::unique_ptr<LiveSettings> settings;
  std::unique_ptr<ScoreKeeper> scores;  // nothing: none are kept
  std::unique_ptr<Attendant> attendant;

  // For those who measure. Shows progress; Interrupted on Ctrl-C. Returns the ms since `start`.
  double wait_until_resident() const;
};
// Uses or writes a sidecar as pack.sidecar says (tools/sidecars.h), and what was learned of the
// experts as `scores` says. Shows progress on a terminal; Interrupted on Ctrl-C. `reread` makes the
// configuration again (hotset ctl reload). `prepare` sees what the model is before its weights are
// read; it may throw, and change what the engine is made with. `is_reference`: with float32 weights
// (model_description.h), which no sidecar holds.
LoadedModel load_model(
    const std::string& path, const Config& config, const std::function<Config()>& reread,
    const std::function<void(const ModelDescription&, EngineOptions&)>& prepare = {},
    bool is_reference = false);

// What `load` makes of a configuration. Where a card fails in it that nobody asked for by name
// (device: auto), what it makes of the CPU's, with the reason in device_notice. The settings are of
// what was asked for all the same: a reload compares with that.
LoadedModel load_with_card_or_without(const Config& config, const std::function<Config()>& reread,
                                      const std::function<LoadedModel(const Config&)>& load);

// The whole of a file, or of standard input for "-". Throws Error naming it.
std::string read_text(const std::string& path);

// `text` as ids: with the model's BOS where it wants one.
std::vector<int32_t> encode_plain(const Tokenizer& tokenizer, const std::string& text,
                                  SpecialTokens specials);

}  // namespace hotset
