// `hotset bench`. Method: the model is loaded once, as `run` does; the clock is read when the first
// step could run (ready) and again when every expert is resident, before anything else is done.
// Token ids are pseudo-random with a fixed seed (so files without a vocabulary work, and routing is
// spread). The session is filled to
// --depth untimed. --routing goes on in its trace from phase to phase and begins again at its end.
// One warm-up, in which logits are checked to be finite, then -r repetitions, each: the memory's
// read bandwidth (1 GiB, or 128 MiB where not all experts are resident, summed by as many threads,
// once on huge pages and once on 4 KiB pages), then a prompt of -p tokens at once (prefill), then
// -n tokens one by one (decode), both from the same depth. Reported are minimum, median and
// maximum; decode's GB/s are the bytes of weights a token must read times the median rate. Peak
// memory and the share of weights, caches and workspace that is on huge pages are read before the
// bandwidth's own buffers are made.
//
// Where not all experts are resident each repetition of decode is also set beside the disk's read
// bandwidth (tools/disk_bound.h; before and after it, the mean counts) over the bytes that it
// missed, and beside decoding one token again and again, whose picks are all resident by then.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "runtime/engine.h"
#include "tools/bandwidth.h"
#include "tools/bench_kernels.h"
#include "tools/card_choice.h"
#include "tools/commands.h"
#include "tools/disk_bound.h"
#include "tools/huge_pages.h"
#include "tools/in_range.h"
#include "tools/interrupt.h"
#include "tools/model_options.h"
#include "tools/peak_memory.h"
#include "tools/routing_player.h"
#include "tools/samples.h"
#include "tools/size.h"

namespace hotset {
namespace {

struct BenchOptions {
  ModelOptions model;
  int64_t prompt = 512, generate = 128, repetitions = 5, depth = 0;
  bool kernels = false, json = false;
  std::string routing;  // a trace whose picks take the place of the router's
  std::optional<double> predict_recall;
  std::string only;  // kernels whose name and type contain this
};

std::vector<int32_t> random_ids(int64_t count, int64_t vocab_size, uint64_t seed) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) {
    seed = seed * 6364136223846793005 + 1442695040888963407;  // Knuth's MMIX generator
    id = static_cast<int32_t>((seed >> 33) % static_cast<uint64_t>(vocab_size));
  }
  return ids;
}

class Bench {
 public:
  Bench(Engine& engine, const BenchOptions& options)
      : engine_(engine), options_(options), session_(engine.open_session()) {
    const int64_t vocab = engine.config().vocab_size;
    prompt_ids_ = random_ids(options.prompt, vocab, 1);
    decode_ids_ = random_ids(options.generate, vocab, 2);
    if (options.depth > 0) {
      feed(engine_, session_, random_ids(options.depth, vocab, 3));
      at_depth_ = session_.snapshot();
    }
  }

  // Of one token at the same place again and again, where nothing is missed; 0: it always was.
  double resident_tps() {
    constexpr int kTries = 32;
    constexpr size_t kEnough = 8;
    Samples tps;
    for (int i = 0; i < kTries && tps.values.size() < kEnough; ++i) {
      const int64_t before = engine_.cache_stats().misses;
      const double now = rate(1, [&] { last_ = feed(engine_, session_, {&decode_ids_[0], 1}); });
      if (engine_.cache_stats().misses == before) tps.values.push_back(now);
    }
    return tps.at(.5);
  }
  double prefill_tps() {
    return rate(options_.prompt, [&] { last_ = feed(engine_, session_, prompt_ids_); });
  }
  double decode_tps(const std::function<void()>& after_token = {}) {
    return rate(options_.generate, [&] {
      for (const int32_t& id : decode_ids_) {
        throw_if_interrupted();
        last_ = feed(engine_, session_, {&id, 1});
        if (after_token) after_token();
      }
    });
  }

  void check_logits() const {
    const bool finite =
        std::all_of(last_.begin(), last_.end(), [](float x) { return std::isfinite(x); });
    if (!finite) throw Error(options_.model.model + ": the model's logits are not finite");
  }

 private:
  template <class Work>
  double rate(int64_t tokens, const Work& work) {
    throw_if_interrupted();
    if (options_.depth > 0) {
      session_.restore(at_depth_);
    } else {
      session_.truncate(0);
    }
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return static_cast<double>(tokens) / seconds.count();
  }

  Engine& engine_;
  const BenchOptions& options_;
  Session session_;
  Snapshot at_depth_;
  std::vector<int32_t> prompt_ids_, decode_ids_;
  std::span<const float> last_;
};

// Decoding beside the disk that its misses come from.
class DiskBench {
 public:
  // `player`: of forced picks, or null.
  DiskBench(Engine& engine, Bench& bench, int io_threads, int64_t tokens, RoutingPlayer* player)
      : engine_(engine),
        bench_(bench),
        disk_(engine.expert_file(), io_threads, engine.cache().plan().classes.back().slot_bytes),
        tokens_(tokens),
        player_(player),
        gbps_(disk_.measure_gbps()) {}

  double decode_tps() {
    const auto bytes = [&] { return static_cast<double>(engine_.cache_stats().bytes_read); };
    const auto waited = [&] {
      return static_cast<double>(engine_.cache().prefetch_stats().reads.waited_ns) / 1e6;
    };
    const double bytes_before = bytes(), waited_before = waited();
    DiskDecode decode;
    std::vector<CacheStats> last = engine_.cache().layer_stats();
    decode.tps = bench_.decode_tps([&] {  // some microseconds
      std::vector<CacheStats> now = engine_.cache().layer_stats();
      for (size_t layer = 0; layer < now.size(); ++layer) {
        decode.layer_bytes.push_back(now[layer].bytes_read - last[layer].bytes_read);
      }
      last = std::move(now);
    });
    decode.miss_bytes_per_token = (bytes() - bytes_before) / static_cast<double>(tokens_);
    decode.waited_ms_per_token = (waited() - waited_before) / static_cast<double>(tokens_);
    const double after = disk_.measure_gbps();
    decode.disk_gbps = (gbps_ + after) / 2;
    gbps_ = after;
    bound_.decodes.push_back(std::move(decode));
    return bound_.decodes.back().tps;
  }

  DiskBound bound() {
    if (player_ != nullptr) {
      bound_.belady_bytes_per_token = belady_bytes_per_token(*player_, engine_.cache().plan());
      player_->hold(true);
    }
    bound_.resident_tps = bench_.resident_tps();
    bound_.layers = std::ssize(engine_.cache().layer_stats());
    bound_.layer_share = static_cast<double>(engine_.expert_bytes_per_token()) /
                         static_cast<double>(engine_.bytes_per_token() * bound_.layers);
    return bound_;
  }

 private:
  Engine& engine_;
  Bench& bench_;
  DiskBandwidth disk_;
  const int64_t tokens_;
  RoutingPlayer* const player_;
  double gbps_;  // as of the last measurement
  DiskBound bound_;
};

nlohmann::ordered_json huge_page_json() {
  const std::optional<double> share = huge_page_share();
  return share ? nlohmann::ordered_json(*share) : nullptr;  // null: not known
}

std::string describe_huge_pages(const nlohmann::ordered_json& share) {
  if (share.is_null()) return "";
  return fmt::format(", {:.1f} % of weights and caches on huge pages", 100 * share.get<double>());
}

void print_table(const LoadedModel& model, const Samples& prefill, const Samples& decode,
                 const std::optional<DiskBound>& bound, const nlohmann::ordered_json& out) {
  const Engine& engine = *model.engine;
  fmt::print("{}: {} threads, {}, device {}\n", engine.config().name, engine.threads(),
             engine.isa(), model.device);
  fmt::print("{:<10}{:>12}{:>12}{:>12}  tokens/s\n", "", "min", "median", "max");
  const auto row = [](const char* name, const Samples& s) {
    if (s.values.empty()) return;
    fmt::print("{:<10}{:>12.2f}{:>12.2f}{:>12.2f}\n", name, s.at(0), s.at(.5), s.at(1));
  };
  row("prefill", prefill);
  row("decode", decode);
  const double gbps = out["decode_gbps"], peak = out["read_gbps"];
  fmt::print(
      "{} a token; decode reads {:.2f} GB/s, memory gives {:.2f} GB/s ({:.0f} %), {:.2f} GB/s on "
      "4 KiB pages\n",
      human_bytes(engine.bytes_per_token()), gbps, peak, 100 * gbps / peak,
      out["read_gbps_4k"].get<double>());
  fmt::print(
      "routing {}, expert hit rate {:.1f} %\nready in {:.0f} ms, resident in {:.0f} ms, peak "
      "memory {}{}\n",
      out["routing"].get<std::string>(), 100 * out["hit_rate"].get<double>(), model.load_ms,
      out["resident_ms"].get<double>(), human_bytes(out["peak_rss_bytes"]),
      describe_huge_pages(out["huge_page_share"]));
  const nlohmann::ordered_json& p = out["prefetch"];
  if (p["needed_reads"] == 0) return;
  fmt::print(
      "steps waited {:.2f} s for {} reads; prefetch ({}) is {}: {:.0f} % of its guesses were "
      "picked ({:.0f} % of the picks), {} reads ahead of which {} were used, {:.2f} s of reading "
      "hidden\n",
      p["waited_ms"].get<double>() / 1e3, p["needed_reads"].get<int64_t>(),
      p["predictor"].get<std::string>(), p["on"].get<bool>() ? "on" : "off",
      100 * p["precision"].get<double>(), 100 * p["recall"].get<double>(),
      p["guessed_reads"].get<int64_t>(), p["used_reads"].get<int64_t>(),
      p["hidden_ms"].get<double>() / 1e3);
  if (bound) fmt::print("{}\n", bound->text());
}

std::string predictor_name(const BenchOptions& options) {
  if (!options.predict_recall) return "the next layer's router";
  return fmt::format("drawn from the trace with recall {}", *options.predict_recall);
}

nlohmann::ordered_json prefetch_json(const Engine& engine, const std::string& predictor) {
  const PrefetchStats p = engine.cache().prefetch_stats();
  return {{"on", engine.is_prefetching()},
          {"predictor", predictor},
          {"precision", p.precision()},
          {"recall", p.recall()},
          {"guessed_reads", p.reads.guesses},
          {"used_reads", p.reads.used},
          {"needed_reads", p.reads.needed},
          {"bytes_unused", p.reads.bytes_unused},
          {"waited_ms", static_cast<double>(p.reads.waited_ns) / 1e6},
          {"hidden_ms", static_cast<double>(p.reads.hidden_ns) / 1e6}};
}

void run_kernel_bench(const BenchOptions& options) {
  const Config config = options.model.config();
  bench_kernels(kernel_table_named(config.cpu.isa.c_str()), options.only, compute_threads(config),
                options.repetitions, options.json);
}

Config config_of(const BenchOptions& options) {
  Config config = options.model.config();
  const int64_t needed = options.depth + std::max(options.prompt, options.generate);
  if (config.ctx == 0) config.ctx = std::max<int64_t>(1, needed);
  if (needed > config.ctx) {
    throw ConfigError(
        fmt::format("--depth, -p and -n need {} positions, but --ctx is {}", needed, config.ctx));
  }
  // Random tokens teach nothing, and what is measured must not depend on what ran before.
  if (!config.scores.workload) config.scores.save = "off";
  return config;
}

// `routing` and `predictor` are made once the model's shape is known.
LoadedModel load(const BenchOptions& options, const Config& config,
                 std::optional<RoutingPlayer>& routing, std::optional<DrawnPredictor>& predictor) {
  return load_model(
      options.model.model, config, [&options] { return config_of(options); },
      [&](const ModelDescription& description, EngineOptions& engine_options) {
        const ModelConfig& c = description.config;
        if (options.routing.empty()) return;
        routing.emplace(options.routing, c);
        if (!options.predict_recall) return;
        const auto experts = static_cast<int32_t>(c.num_experts);
        engine_options.predictor = &predictor.emplace(*routing, experts, *options.predict_recall);
      });
}

void run_bench(const BenchOptions& options) {
  if (options.kernels) return run_kernel_bench(options);
  if (options.model.model.empty()) throw ConfigError("bench: -m MODEL is missing (or --kernels)");
  const Config config = config_of(options);
  if (options.prompt + options.generate == 0) throw ConfigError("-p and -n are both 0");

  std::optional<RoutingPlayer> routing;
  std::optional<DrawnPredictor> predictor;
  const LoadedModel model = load(options, config, routing, predictor);
  const double resident_ms = model.wait_until_resident();
  Engine& engine = *model.engine;
  if (routing) {
    engine.force_routing([&](int32_t layer, int32_t* experts, int64_t rows) {
      routing->play(layer, experts, rows);
    });
  }
  const std::unique_ptr<TraceRecorder> trace = options.model.record(engine);
  Bench bench(engine, options);
  if (options.prompt > 0) bench.prefill_tps();
  if (options.generate > 0) bench.decode_tps();
  bench.check_logits();
  const int64_t peak_rss = peak_rss_bytes();
  const nlohmann::ordered_json huge_share = huge_page_json();

  const Pinning pinning = config.cpu.pin ? Pinning::kCores : Pinning::kNone;
  const int64_t bytes = engine.cache().has_all_slots() ? 1 << 30 : 128 << 20;
  ReadBandwidth bandwidth(engine.threads(), pinning, Pages::kHuge, bytes);
  ReadBandwidth bandwidth_4k(engine.threads(), pinning, Pages::kSmall, bytes);
  for (ReadBandwidth* first : {&bandwidth, &bandwidth_4k}) first->measure_gbps();
  std::optional<DiskBench> disk;
  if (!engine.cache().has_all_slots() && options.generate > 0) {
    disk.emplace(engine, bench, config.cache.io_threads, options.generate,
                 routing ? &*routing : nullptr);
  }
  Samples prefill, decode, read, read_4k;
  for (int64_t i = 0; i < options.repetitions; ++i) {
    read.values.push_back(bandwidth.measure_gbps());
    read_4k.values.push_back(bandwidth_4k.measure_gbps());
    if (options.prompt > 0) prefill.values.push_back(bench.prefill_tps());
    if (options.generate > 0) {
      decode.values.push_back(disk ? disk->decode_tps() : bench.decode_tps());
    }
  }
  const CacheStats stats = engine.cache_stats();
  const nlohmann::ordered_json prefetch = prefetch_json(engine, predictor_name(options));
  std::optional<DiskBound> bound;
  if (disk) bound = disk->bound();
  nlohmann::ordered_json out = {
      {"prefill_tps", prefill.json()},
      {"decode_tps", decode.json()},
      {"bytes_per_token", engine.bytes_per_token()},
      {"decode_gbps", static_cast<double>(engine.bytes_per_token()) * decode.at(.5) / 1e9},
      {"read_gbps", read.at(.5)},
      {"read_gbps_4k", read_4k.at(.5)},
      {"huge_page_share", huge_share},
      {"hit_rate", stats.hit_rate()},
      {"expert_misses", stats.misses},
      {"bytes_read", stats.bytes_read},
      {"routing", options.routing.empty() ? "router" : "forced from " + options.routing},
      {"load_ms", model.load_ms},
      {"resident_ms", resident_ms},
      {"peak_rss_bytes", peak_rss},
      {"prefetch", prefetch},
      {"device", model.device},
      {"card", card_json(engine)},
      {"isa", engine.isa()},
      {"threads", engine.threads()}};
  if (bound) out["disk"] = bound->json();
  if (options.json) return fmt::print("{}\n", out.dump());
  print_table(model, prefill, decode, bound, out);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  const auto o = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand("bench", "Prefill and decode speed against the memory's");
  o->model.add_to(*command);
  command->get_option("--model")->required(false);
  command->add_flag("--kernels", o->kernels,
                    "instead of a model, every CPU kernel on its own, checked and timed");
  command->add_option("--only", o->only, "with --kernels: those whose name and type contain this")
      ->needs("--kernels");
  command->add_option("-p,--prompt-tokens", o->prompt, "tokens of the prompt; 0: no prefill")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_option("-n,--tokens", o->generate, "tokens to decode; 0: no decode")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_option("-r,--repetitions", o->repetitions, "timed repetitions")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--depth", o->depth, "tokens in the session before either begins")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--routing", o->routing,
                   "picks of this trace, of a model of the same shape, instead of the router's")
      ->excludes("--kernels");
  command
      ->add_option("--predict-recall", o->predict_recall,
                   "with --routing: guesses drawn from the trace with this recall, instead of "
                   "the next layer's router")
      ->needs("--routing")
      ->check(in_range(0.0, 1.0));
  command->add_flag("--json", o->json, "one JSON object on stdout");
  command->footer(
      "Example:\n  hotset bench -m model.gguf -p 512 -n 128 -r 5 --threads 2\n"
      "  hotset bench -m synthetic.gguf -p 0 --ram 20% --routing chat.trace\n"
      "  hotset bench --kernels --set cpu.isa=avx2");
  command->callback([o] { run_bench(*o); });
}

}  // namespace hotset
