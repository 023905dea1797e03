// `hotset inspect`: what a model is, what it would take to run, and whether its weights are whole.
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/weights/safetensors.h"
#include "runtime/weights/verify.h"
#include "tools/card_report.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/in_range.h"
#include "tools/model_options.h"
#include "tools/progress.h"
#include "tools/quantised_report.h"
#include "tools/sidecars.h"
#include "tools/size.h"

namespace hotset {
namespace {

using nlohmann::ordered_json;

struct InspectOptions {
  std::string model;
  std::string vram, config_file;
  std::vector<std::string> sets;
  std::optional<std::string> ram;
  CardQuestion card;
  bool tensors = false, plan = false, verify = false, json = false;
};

struct ListedTensor {
  TensorInfo info;
  std::string type;  // as the file calls it
};

// All tensors of the files, those that the model does not use included.
std::vector<ListedTensor> tensors_of(const std::string& path) {
  std::vector<ListedTensor> list;
  const auto add = [&](const TensorInfo& tensor) {
    list.push_back({tensor, std::string(info(tensor.type).name)});
  };
  if (!std::filesystem::is_directory(path)) {
    const GgufFile file(path);
    for (const TensorInfo& tensor : file.tensors()) add(tensor);
    return list;
  }
  const SafetensorsFolder folder(path);
  for (const TensorInfo& tensor : folder.tensors()) add(tensor);
  for (const StoredTensor* other : folder.others()) {
    list.push_back({other->info, std::string(other->dtype)});
  }
  return list;
}

// Of a quantised folder tensors do not say it: several weights are in an element, or none.
int64_t parameters_of(const ModelDescription& model, const std::vector<ListedTensor>& tensors) {
  int64_t parameters = 0, of_matrices = 0;
  bool is_quantised = false;
  for (const ListedTensor& tensor : tensors) parameters += tensor.info.elements();
  for_each_matrix(model, [&](const MatrixSource& matrix) {
    of_matrices += matrix.n * matrix.k;
    is_quantised = is_quantised || matrix.quantised != nullptr;
  });
  return is_quantised ? of_matrices : parameters;
}

struct TypeTotal {
  int64_t tensors = 0, bytes = 0;
};
std::map<std::string, TypeTotal> totals_by_type(const std::vector<ListedTensor>& tensors) {
  std::map<std::string, TypeTotal> totals;
  for (const ListedTensor& tensor : tensors) {
    TypeTotal& total = totals[tensor.type];
    ++total.tensors;
    total.bytes += static_cast<int64_t>(tensor.info.bytes);
  }
  return totals;
}

ordered_json describe(const ModelDescription& model, const std::vector<ListedTensor>& tensors) {
  const ModelConfig& c = model.config;
  int64_t full_attention = 0, expert_bytes = 0;
  for (const LayerTensors& layer : model.layers) {
    full_attention += layer.is_delta_net ? 0 : 1;
    for (const ExpertSourceTensors& e : layer.experts) {
      expert_bytes += e.gate.bytes() + e.up.bytes() + e.down.bytes();
    }
  }
  ordered_json types = ordered_json::object();
  for (const auto& [name, total] : totals_by_type(tensors)) {
    types[name] = {{"tensors", total.tensors}, {"bytes", total.bytes}};
  }
  return {{"path", model.path},
          {"name", c.name},
          {"architecture", c.architecture == Architecture::kQwen3Next ? "qwen3_next" : "qwen3_moe"},
          {"file_bytes", model.file_bytes()},
          {"tensors", tensors.size()},
          {"parameters", parameters_of(model, tensors)},
          {"types", types},
          {"layers", c.num_hidden_layers},
          {"full_attention_layers", full_attention},
          {"hidden_size", c.hidden_size},
          {"heads", c.num_attention_heads},
          {"kv_heads", c.num_key_value_heads},
          {"head_dim", c.head_dim},
          {"experts", c.num_experts},
          {"experts_per_token", c.num_experts_per_tok},
          {"expert_size", c.moe_intermediate_size},
          {"shared_expert_size", c.shared_expert_intermediate_size},
          {"expert_bytes", expert_bytes},
          {"vocabulary", c.vocab_size},
          {"has_vocabulary", model.vocabulary.has_value()},
          {"context", c.max_position_embeddings}};
}

void print_description(const ordered_json& d) {
  const auto number = [&](const char* key) { return d[key].get<int64_t>(); };
  fmt::print("{}: {}, {:.1f} million parameters, {}\n", d["name"].get<std::string>(),
             d["architecture"].get<std::string>(), static_cast<double>(number("parameters")) / 1e6,
             human_bytes(number("file_bytes")));
  fmt::print("layers       {} ({} with full attention), hidden size {}\n", number("layers"),
             number("full_attention_layers"), number("hidden_size"));
  fmt::print("attention    {} heads of {}, {} for keys and values\n", number("heads"),
             number("head_dim"), number("kv_heads"));
  fmt::print("experts      {} a layer, {} a token, of {}; {} in all", number("experts"),
             number("experts_per_token"), number("expert_size"),
             human_bytes(number("expert_bytes")));
  if (number("shared_expert_size") > 0) {
    fmt::print("; a shared one of {}", number("shared_expert_size"));
  }
  fmt::print("\nvocabulary   {}{}\ncontext      {}\n", number("vocabulary"),
             d["has_vocabulary"].get<bool>() ? "" : " ids, no text", number("context"));
  for (const auto& [name, total] : d["types"].items()) {
    fmt::print("{:<12} {} in {} tensors\n", name, human_bytes(total["bytes"]),
               total["tensors"].get<int64_t>());
  }
}

ordered_json plan_json(const MemoryPlan& plan, const MemoryBudget& budget) {
  ordered_json classes = ordered_json::array();
  for (const SlotPlan::Class& c : plan.experts.classes) {
    classes.push_back({{"slot_bytes", c.slot_bytes},
                       {"experts", c.experts},
                       {"slots", c.slots},
                       {"layers", c.layers}});
  }
  return {{"dense", plan.dense},
          {"embedding", plan.embedding},
          {"experts", plan.experts.slot_bytes_total},
          {"experts_all", plan.experts.expert_bytes_total},
          {"experts_least", plan.experts.least_bytes},
          {"expert_classes", classes},
          {"kv", plan.kv},
          {"recurrent", plan.recurrent},
          {"workspace", plan.workspace},
          {"landing", plan.landing},
          {"ring", plan.ring},
          {"total", plan.total()},
          {"room", budget.room ? ordered_json(budget.room->bytes) : ordered_json(nullptr)},
          {"room_of", budget.room ? budget.room->whose : ""},
          {"headroom", budget.headroom_bytes},
          {"fits", plan.total() <= budget.most_bytes()}};
}

void inspect_sidecar(const ModelDescription& model, ordered_json& out, bool is_json) {
  const SidecarSearch search = find_sidecar(model, sidecar_places(model));
  out["sidecar"] = search.found ? ordered_json(search.found->path()) : ordered_json(nullptr);
  out["sidecars_refused"] = search.refused;
  if (is_json) return;
  fmt::print("sidecar      {}\n", search.found ? search.found->path() : "none");
  for (const std::string& refusal : search.refused) fmt::print("unusable     {}\n", refusal);
}

Config config_of(const InspectOptions& options) {
  Config config;
  config.ram = "100%";
  load_settings(config, options.config_file, options.sets);
  if (options.ram) config.ram = *options.ram;
  check_config(config);
  return config;
}

// 0: none was asked for.
int64_t vram_bytes_of(const InspectOptions& options) {
  if (options.vram.empty()) return 0;
  const std::optional<Size> vram = Size::parse(options.vram);
  if (!vram || vram->is_percent() || vram->bytes_of(0) == 0) {
    throw ConfigError(
        fmt::format("--vram: found \"{}\", expected a size such as 10GB", options.vram));
  }
  return vram->bytes_of(0);
}

// A card's tier lies over the host's: all experts that the host has no room for are misses of both.
void inspect_card(const InspectOptions& options, int64_t vram_bytes, Config config,
                  const ModelDescription& model, const MemoryBudget& budget, ordered_json& out) {
  config.ram = "100%";
  CardQuestion question = options.card;
  question.vram_bytes = vram_bytes;
  question.ring = config.prompt.ring;
  out["card"] = card_report(model, plan_engine(config, model, budget).memory, question);
  if (!options.json) print_card_report(out["card"]);
}

void run_inspect(const InspectOptions& options) {
  const int64_t vram_bytes = vram_bytes_of(options);
  const ModelDescription model = open_model(options.model);
  const std::vector<ListedTensor> tensors = tensors_of(options.model);
  ordered_json out = describe(model, tensors);
  out["quantised"] = quantised_report(model, options.tensors);
  if (!options.json) {
    print_description(out);
    print_quantised_report(out["quantised"]);
  }
  inspect_sidecar(model, out, options.json);

  if (options.tensors) {
    out["tensor_list"] = ordered_json::array();
    for (const auto& [tensor, type] : tensors) {
      out["tensor_list"].push_back(
          {{"name", tensor.name}, {"type", type}, {"shape", tensor.dims}, {"bytes", tensor.bytes}});
      if (options.json) continue;
      fmt::print("{:<48} {:<7} {:<22} {:>12}\n", tensor.name, type,
                 fmt::format("[{}]", fmt::join(tensor.dims, ", ")), tensor.bytes);
    }
  }
  if (options.plan) {
    const Config config = config_of(options);
    const MemoryBudget budget = memory_budget(config, memory_room());
    const MemoryPlan plan = plan_engine(config, model, budget).memory;
    out["plan"] = plan_json(plan, budget);
    if (!options.json) {
      fmt::print("{}{}\n", describe_plan(plan, budget),
                 plan.total() <= budget.most_bytes() ? "" : ": does not fit");
    }
    if (vram_bytes > 0) inspect_card(options, vram_bytes, config, model, budget, out);
  }
  if (options.verify) {
    {
      ProgressBar bar;
      verify_weights(model, [&](uint64_t done, uint64_t total) {
        bar.update(static_cast<int64_t>(done), static_cast<int64_t>(total), "verifying");
      });
    }
    out["verified"] = true;
    if (!options.json) {
      fmt::print("verified     structure, shapes, vocabulary, and that every weight is finite\n");
    }
  }
  if (options.json) fmt::print("{}\n", out.dump());
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  const auto o = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand("inspect", "What a model is, and what it takes to run it");
  command->add_option("model", o->model, "a .gguf file, or a Hugging Face folder")->required();
  command->add_flag("--tensors", o->tensors, "list the tensors");
  auto* plan = command->add_flag("--plan", o->plan, "where the memory would go");
  command
      ->add_option("--ram", o->ram,
                   "for --plan: memory for routed experts: 16GiB, 50% (default: 100%)")
      ->needs(plan);
  command
      ->add_option("--config", o->config_file,
                   "for --plan: a YAML file of settings, as for hotset run")
      ->needs(plan);
  command->add_option("--set", o->sets, "for --plan: one setting: key=value; may be repeated")
      ->allow_extra_args(false)
      ->needs(plan);
  auto* vram = command
                   ->add_option("--vram", o->vram,
                                "for --plan: what a card of this memory would hold and give; "
                                "not measured on a card")
                   ->needs(plan);
  command->add_option("--trace", o->card.trace, "for --vram: routing, for the hit rate")
      ->needs(vram);
  const auto rate = [&](const char* name, double& value, const char* text) {
    command->add_option(name, value, text)
        ->capture_default_str()
        ->check(in_range(0.001, 1e6))
        ->needs(vram);
  };
  rate("--card-gbps", o->card.rates.card_gbps, "for --vram: bandwidth of the card's memory");
  rate("--dram-gbps", o->card.rates.dram_gbps, "for --vram: what the CPU reads memory with");
  rate("--link-gbps", o->card.rates.link_gbps, "for --vram: host to card");
  command->add_flag("--verify", o->verify, "read and check every byte");
  command->add_flag("--json", o->json, "one JSON object on stdout");
  command->footer(
      "Example:\n  hotset inspect model.gguf --plan --ram 8GiB --verify\n"
      "  hotset inspect model.gguf --plan --vram 10GB --trace chat.trace --card-gbps 360");
  command->callback([o] { run_inspect(*o); });
}

}  // namespace hotset
