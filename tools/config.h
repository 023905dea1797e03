// The configuration: every setting, its default, and one list of fields that loading, dumping,
// --set, the checks, the JSON schema and the unknown-key error all walk. The environment is not
// consulted. Precedence: defaults, file, --set, flags.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "cache/policy.h"
#include "kernels/check.h"

namespace hotset {

// What the user asked for cannot be: exit code 2.
class ConfigError : public Error {
 public:
  using Error::Error;
};

// What is said of a field beside its name: editors show it, values are checked against it.
struct About {
  const char* text;
  const char* names = nullptr;  // "auto|off": the values that text may have
  bool is_size = false;         // text that is a size (tools/size.h), or one of the names
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  bool is_live = false;  // `hotset ctl set` and `reload` change it in a running process
};

struct CpuConfig {
  std::string isa = "auto";
  int32_t threads = 0;
  bool pin = false;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("isa", self.isa,
          About{.text = "instruction set; all give the same bits",
                .names = "auto|portable|avx2|avx512|avx512vnni|amx"});
    field("threads", self.threads,
          About{.text = "compute threads; 0: as many as physical cores", .least = 0, .most = 1024});
    field("pin", self.pin, About{.text = "each compute thread keeps to a core of its own"});
  }
};

struct KvConfig {
  std::string type = "f16";

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("type", self.type, About{.text = "how keys and values are kept", .names = "f16|f32"});
  }
};

struct PromptConfig {
  int32_t chunk = 512;
  int32_t ring = 64;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("chunk", self.chunk,
          About{.text = "tokens of a prompt that go through together where the model is resident",
                .least = 1,
                .most = 1 << 16});
    field("ring", self.ring,
          About{.text = "experts in a card's memory that a prompt copies what has no slot into, in "
                        "fours; 0: "
                        "nothing is copied, the CPU computes it",
                .least = 0,
                .most = 1 << 12});
  }
};

struct CacheConfig {
  std::string policy = "score";
  double half_life = 0;
  std::string prefetch = "auto";
  int32_t io_threads = 4;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("policy", self.policy,
          About{.text = "score: recent use, decayed, by router rank; lru: least recently used goes "
                        "first; lfu: least often used, counts halved every 256 tokens; static: by "
                        "the saved scores, never changed",
                .names = "score|lru|lfu|static",
                .is_live = true});
    field("half_life", self.half_life,
          About{.text = "of score, in tokens: unused for so long, it has halved; 0: the best of 8, "
                        "16, 32",
                .least = 0,
                .most = 1e6,
                .is_live = true});
    field("prefetch", self.prefetch,
          About{.text = "experts are read before their layer picks them, by a guess; auto: while "
                        "that is measured to be faster",
                .names = "auto|on|off"});
    field("io_threads", self.io_threads,
          About{.text = "threads that read experts from the disk", .least = 1, .most = 64});
  }
};

struct ScoresConfig {
  std::string save = "auto";
  int32_t every_s = 300;
  std::optional<std::string> workload;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field(
        "save", self.save,
        About{.text = "what a run learned of its experts is kept in the cache folder, and the next "
                      "start begins with it",
              .names = "auto|off"});
    field("every_s", self.every_s,
          About{.text = "seconds between two savings; the end of a run saves, too",
                .least = 1,
                .most = 1e6});
    field("workload", self.workload,
          About{.text = "a name for what the model is used for: each has scores of its own"});
  }
};

struct PackConfig {
  std::string sidecar = "auto";

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("sidecar", self.sidecar,
          About{.text = "packed weights in a file beside the model or in the cache folder, from "
                        "which the next start is fast",
                .names = "auto|off"});
  }
};

struct MemoryConfig {
  std::string headroom = "5%";
  bool pressure = true;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("headroom", self.headroom,
          About{.text = "memory that stays free: 1GiB, or a part of what the machine or the "
                        "container has (5%)",
                .is_size = true,
                .is_live = true});
    field(
        "pressure", self.pressure,
        About{.text = "experts give memory back while everything on the machine waits for memory, "
                      "and take it again later",
              .is_live = true});
  }
};

struct ProfilerConfig {
  int64_t ring = 65536;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("ring", self.ring,
          About{.text = "records of 64 bytes that a watcher (hotset daemon, hotset top) may be "
                        "behind; 0: nobody can watch",
                .least = 0,
                .most = 1 << 24});
  }
};

struct DaemonConfig {
  std::string address = "127.0.0.1";
  int32_t port = 9477;
  std::optional<std::string> key, log;
  std::string log_size = "32MiB";
  double slow_factor = 2;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("address", self.address,
          About{.text = "where it serves; one that others can reach needs a key"});
    field("port", self.port, About{.text = "0: any that is free", .least = 0, .most = 65535});
    field("key", self.key,
          About{.text = "every request must bring it (Authorization: Bearer KEY); unset: none"});
    field("log", self.log, About{.text = "file of JSON lines; unset: none"});
    field(
        "log_size", self.log_size,
        About{.text = "most that the log and the one before it may take: 32MiB", .is_size = true});
    field("slow_factor", self.slow_factor,
          About{.text = "a token is slow if it takes so many times the median",
                .least = 1.1,
                .most = 1000});
  }
};

struct TuneConfig {
  bool automatic = false;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field(
        "auto", self.automatic,
        About{.text = "hotset daemon changes cache.policy and cache.half_life of running engines, "
                      "one at a time, where a replay says it pays, and takes back what did not "
                      "help"});
  }
};

// Unset: the model's generation_config.json; greedy where it has none.
struct SamplerConfig {
  std::optional<double> temperature, top_p, min_p, repeat_penalty;
  std::optional<int64_t> top_k, seed;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("temperature", self.temperature, About{.text = "0: greedy", .least = 0, .most = 1000});
    field("top_k", self.top_k,
          About{.text = "the K most probable tokens; 0: all", .least = 0, .most = INT32_MAX});
    field(
        "top_p", self.top_p,
        About{.text = "the most probable tokens that sum up to P; 1: all", .least = 0, .most = 1});
    field("min_p", self.min_p,
          About{.text = "tokens at least P times as probable as the best; 0: all",
                .least = 0,
                .most = 1});
    field("repeat_penalty", self.repeat_penalty,
          About{.text = "divides the logits of tokens that have occurred; 1: off",
                .least = 0.01,
                .most = 1000});
    field("seed", self.seed,
          About{.text = "the same seed gives the same text; unset: another one each time"});
  }
};

struct ChatConfig {
  std::optional<std::string> format;
  std::optional<std::string> system;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("template", self.format,
          About{.text = "unset: recognised from the model's own", .names = "chatml"});
    field("system", self.system, About{.text = "the system message; unset: none"});
  }
};

struct Config {
  CpuConfig cpu;
  std::string device = "auto";
  std::string ram = "auto";
  std::string vram = "auto";
  MemoryConfig memory;
  int64_t ctx = 0;
  KvConfig kv;
  PromptConfig prompt;
  CacheConfig cache;
  ScoresConfig scores;
  PackConfig pack;
  ProfilerConfig profiler;
  DaemonConfig daemon;
  TuneConfig tune;
  SamplerConfig sampler;
  ChatConfig chat;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("cpu", self.cpu, About{"the processor"});
    field(
        "device", self.device,
        About{.text = "what computes, to the same bits: a card if there is one (auto), the cpu, a "
                      "card (cuda), or the card's code run on the cpu to prove it (emulated)",
              .names = "auto|cpu|cuda|emulated"});
    field("ram", self.ram,
          About{.text = "memory for routed experts: as much as fits (auto), 16GiB, 16GB, or a part "
                        "of all of them (50%)",
                .names = "auto",
                .is_size = true,
                .is_live = true});
    field(
        "vram", self.vram,
        About{.text = "a card's memory that may be taken: what is free (auto), 10GB; or slots for "
                      "a part of all experts (50%)",
              .names = "auto",
              .is_size = true,
              .is_live = true});
    field("memory", self.memory, About{"memory in all"});
    field("ctx", self.ctx,
          About{.text = "positions a session can hold; 0: the model's, at most 8192",
                .least = 0,
                .most = INT32_MAX});
    field("kv", self.kv, About{"attention's keys and values"});
    field("prompt", self.prompt, About{"how prompts go through the model"});
    field("cache", self.cache, About{"which experts stay in memory where not all fit"});
    field("scores", self.scores, About{"what is known of experts from one run to the next"});
    field("pack", self.pack, About{"packed weights"});
    field("profiler", self.profiler, About{"what watchers see"});
    field("daemon", self.daemon, About{"the watcher (hotset daemon)"});
    field("tune", self.tune, About{"settings that find themselves"});
    field("sampler", self.sampler,
          About{"unset: as the model's generation_config.json says; greedy where it has none"});
    field("chat", self.chat, About{"conversations"});
  }
};

// All throw ConfigError that names where (file and line, or the assignment), key, found and
// expected.
void load_config(Config& config, const std::string& path);
void load_config_text(Config& config, const std::string& yaml, const std::string& name);
void set_config(Config& config, const std::string& assignment);  // "cpu.threads=4"
// What --config (empty: none) and then --set say.
void load_settings(Config& config, const std::string& path,
                   const std::vector<std::string>& assignments);
void check_config(const Config& config);  // against what About says of each field

PolicyOptions policy_options(const CacheConfig& config);  // of a checked one

std::string dump_config(const Config& config);       // as YAML
std::string dump_config_json(const Config& config);  // the same as one line of JSON
std::vector<std::string> config_keys();
std::string config_schema();  // JSON schema (draft 7) of a configuration file

}  // namespace hotset
