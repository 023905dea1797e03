// The configuration: every setting, its default, and one list of fields that loading, dumping,
// --set and the unknown-key error all walk. The environment is not consulted. Precedence: defaults,
// file, --set, flags.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/check.h"

namespace hotset {

// What the user asked for cannot be: exit code 2.
class ConfigError : public Error {
 public:
  using Error::Error;
};

struct CpuConfig {
  std::string isa = "auto";
  int32_t threads = 0;
  bool pin = false;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("isa", self.isa);
    field("threads", self.threads);
    field("pin", self.pin);
  }
};

struct KvConfig {
  std::string type = "f16";

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("type", self.type);
  }
};

struct PromptConfig {
  int32_t chunk = 512;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("chunk", self.chunk);
  }
};

struct PackConfig {
  std::string sidecar = "auto";

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("sidecar", self.sidecar);
  }
};

// Unset: the model's generation_config.json; greedy where it has none.
struct SamplerConfig {
  std::optional<double> temperature, top_p, min_p, repeat_penalty;
  std::optional<int64_t> top_k, seed;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("temperature", self.temperature);
    field("top_k", self.top_k);
    field("top_p", self.top_p);
    field("min_p", self.min_p);
    field("repeat_penalty", self.repeat_penalty);
    field("seed", self.seed);
  }
};

struct ChatConfig {
  std::optional<std::string> format;
  std::optional<std::string> system;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("template", self.format);
    field("system", self.system);
  }
};

struct Config {
  CpuConfig cpu;
  std::string ram = "100%";
  int64_t ctx = 0;
  KvConfig kv;
  PromptConfig prompt;
  PackConfig pack;
  SamplerConfig sampler;
  ChatConfig chat;

  template <class Self, class Field>
  static void visit(Self& self, Field&& field) {
    field("cpu", self.cpu);
    field("ram", self.ram);
    field("ctx", self.ctx);
    field("kv", self.kv);
    field("prompt", self.prompt);
    field("pack", self.pack);
    field("sampler", self.sampler);
    field("chat", self.chat);
  }
};

// All throw ConfigError that names where (file and line, or the assignment), key, found and
// expected.
void load_config(Config& config, const std::string& path);
void load_config_text(Config& config, const std::string& yaml, const std::string& name);
void set_config(Config& config, const std::string& assignment);  // "cpu.threads=4"
void check_config(const Config& config);                         // ranges and names of values

std::string dump_config(const Config& config);  // as YAML
std::vector<std::string> config_keys();

}  // namespace hotset
