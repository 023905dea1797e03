// Reading and checking of a Hugging Face folder's configuration files (see hf_config.h).
#include "runtime/weights/hf_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "kernels/check.h"
#include "runtime/weights/describe.h"
#include "runtime/weights/json.h"
#include "runtime/weights/messages.h"

namespace hotset {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

int64_t size(const JsonObject& object, const std::string& key, int64_t max = kMaxSize) {
  const int64_t value = object.integer(key);
  if (value < 1 || value > max) {
    object.fail(key, "found " + std::to_string(value) + ", expected 1 to " + std::to_string(max));
  }
  return value;
}

int64_t size_or(const JsonObject& object, const std::string& key, int64_t otherwise) {
  return object.find(key) != nullptr ? size(object, key) : otherwise;
}

// The nearest float32: what a GGUF of the same model carries, and what the arithmetic uses.
double as_float32(double value) {
  return static_cast<double>(static_cast<float>(value));
}

Architecture read_architecture(const JsonObject& root, const JsonObject& text) {
  const std::string type =
      text.find_string("model_type").value_or(root.find_string("model_type").value_or(""));
  if (type == "qwen3_next" || type == "qwen3_next_text") return Architecture::kQwen3Next;
  if (type == "qwen3_moe" || type == "qwen3_moe_text") return Architecture::kQwen3Moe;
  const json* names = root.find("architectures");
  root.fail("model_type", "found \"" + printable(type) + "\" (architectures: " +
                              (names == nullptr ? "none" : printable(names->dump())) +
                              "), expected one of those that are read: qwen3_next, qwen3_moe");
}

// Settings that change the arithmetic in a way that the runtime does not follow.
void refuse_unsupported(const JsonObject& text) {
  const std::string activation = text.find_string("hidden_act").value_or("silu");
  if (activation != "silu") {
    text.fail("hidden_act", "found \"" + printable(activation) + "\", expected \"silu\"");
  }
  if (text.find_boolean("attention_bias").value_or(false)) {
    text.fail("attention_bias", "found true, expected false");
  }
  if (text.find_boolean("use_sliding_window").value_or(false)) {
    text.fail("use_sliding_window", "found true, expected false");
  }
  if (const auto step = text.find_integer("decoder_sparse_step"); step && *step != 1) {
    text.fail("decoder_sparse_step", "found " + std::to_string(*step) +
                                         ", expected 1: every layer must be a mixture of experts");
  }
  if (const json* dense = text.find("mlp_only_layers"); dense && *dense != json::array()) {
    text.fail("mlp_only_layers", "found " + printable(dense->dump()) +
                                     ", expected []: every layer must be a mixture of experts");
  }
}

// RoPE settings come in three spellings; the first that has a value wins.
class RopeSettings {
 public:
  explicit RopeSettings(const JsonObject& text) {
    for (const char* key : {"rope_parameters", "rope_scaling"}) {
      const auto object = text.find_object(key);
      if (!object) continue;
      const auto by_layer_type = object->find_object("full_attention");
      places_.push_back(by_layer_type ? *by_layer_type : *object);
    }
    for (const JsonObject& place : places_) {
      for (const char* key : {"rope_type", "type"}) {
        const std::string type = place.find_string(key).value_or("default");
        if (type == "default") continue;
        place.fail(key, "found \"" + printable(type) +
                            "\", expected \"default\": scaled RoPE is not supported");
      }
    }
    places_.push_back(text);
  }

  std::optional<double> find(const std::string& key) const {
    for (const JsonObject& place : places_) {
      if (const auto value = place.find_number(key)) return value;
    }
    return std::nullopt;
  }

 private:
  std::vector<JsonObject> places_;
};

void read_rope(const JsonObject& text, ModelConfig& config) {
  const RopeSettings rope(text);
  const auto theta = rope.find("rope_theta");
  if (!theta) text.fail("rope_theta", "missing, expected a number (also in rope_parameters)");
  config.rope_theta = as_float32(*theta);
  const double otherwise = config.architecture == Architecture::kQwen3Next ? 0.25 : 1.0;
  const double part = rope.find("partial_rotary_factor").value_or(otherwise);
  if (!(part > 0 && part <= 1)) {
    text.fail("partial_rotary_factor",
              "found " + std::to_string(part) + ", expected more than 0 and at most 1");
  }
  config.rotary_dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * part);
}

ModelConfig read_model(const JsonObject& root, const JsonObject& text) {
  ModelConfig config;
  config.architecture = read_architecture(root, text);
  const bool next = config.architecture == Architecture::kQwen3Next;
  config.vocab_size = size(text, "vocab_size");
  config.hidden_size = size(text, "hidden_size");
  config.num_hidden_layers = size(text, "num_hidden_layers", kMaxLayers);
  config.max_position_embeddings = size(text, "max_position_embeddings", INT32_MAX);
  config.rms_norm_eps = as_float32(text.number("rms_norm_eps"));
  config.tie_word_embeddings =
      text.find_boolean("tie_word_embeddings")
          .value_or(root.find_boolean("tie_word_embeddings").value_or(false));
  config.num_attention_heads = size(text, "num_attention_heads");
  config.num_key_value_heads = size_or(text, "num_key_value_heads", config.num_attention_heads);
  if (text.find("head_dim") == nullptr && config.hidden_size % config.num_attention_heads != 0) {
    text.fail("head_dim", "missing, and hidden_size is not a multiple of num_attention_heads");
  }
  config.head_dim = size_or(text, "head_dim", config.hidden_size / config.num_attention_heads);
  config.attention_gate = next;
  read_rope(text, config);
  if (next) {
    config.linear_num_key_heads = size(text, "linear_num_key_heads");
    config.linear_num_value_heads = size(text, "linear_num_value_heads");
    config.linear_key_head_dim = size(text, "linear_key_head_dim");
    config.linear_value_head_dim = size(text, "linear_value_head_dim");
    config.linear_conv_kernel_dim = size(text, "linear_conv_kernel_dim");
    config.shared_expert_intermediate_size = size(text, "shared_expert_intermediate_size");
  }
  config.num_experts = size(text, "num_experts");
  config.num_experts_per_tok = size(text, "num_experts_per_tok");
  config.moe_intermediate_size = size(text, "moe_intermediate_size");
  // The library's own default differs from what released checkpoints set: no default here.
  config.norm_topk_prob = text.boolean("norm_topk_prob");
  refuse_unsupported(text);
  check_config(config, text.file(),
               {"num_attention_heads", "num_key_value_heads", "head_dim", "partial_rotary_factor",
                "num_experts", "num_experts_per_tok", "linear_num_key_heads",
                "linear_num_value_heads", "rms_norm_eps", "rope_theta"});
  return config;
}

std::vector<bool> read_layer_kinds(const JsonObject& text, const ModelConfig& config) {
  const bool next = config.architecture == Architecture::kQwen3Next;
  std::vector<bool> is_delta_net(static_cast<size_t>(config.num_hidden_layers));
  const json* types = text.find("layer_types");
  if (types == nullptr) {
    if (!next) return is_delta_net;
    const int64_t interval = size_or(text, "full_attention_interval", 4);
    for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
      is_delta_net[i] = (i + 1) % interval != 0;
    }
    return is_delta_net;
  }
  if (!types->is_array() || types->size() != is_delta_net.size()) {
    text.fail("layer_types", "expected a list of one name a layer (num_hidden_layers is " +
                                 std::to_string(is_delta_net.size()) + ")");
  }
  for (size_t i = 0; i < types->size(); ++i) {
    is_delta_net[i] = next && (*types)[i] == "linear_attention";
    if (!is_delta_net[i] && (*types)[i] != "full_attention") {
      text.fail("layer_types", "entry " + std::to_string(i) + " is " +
                                   printable((*types)[i].dump()) + ", expected " +
                                   (next ? "\"linear_attention\" or " : "") + "\"full_attention\"");
    }
  }
  return is_delta_net;
}

// An id or a list of ids; ids that are there already are left out.
void add_ids(const JsonObject& object, const std::string& key, int64_t vocab_size,
             std::vector<int32_t>& ids) {
  const json* value = object.find(key);
  if (value == nullptr) return;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab_size)) {
      object.fail(key, "found " + printable(id.dump()) + ", expected token ids from 0 to " +
                           std::to_string(vocab_size - 1));
    }
    const auto token = id.get<int32_t>();
    if (std::find(ids.begin(), ids.end(), token) == ids.end()) ids.push_back(token);
  }
}

float number_in(const JsonObject& object, const std::string& key, float otherwise, double max) {
  const auto value = object.find_number(key);
  if (!value) return otherwise;
  if (!(*value >= 0 && *value <= max)) {
    object.fail(key, "found " + std::to_string(*value) + ", expected 0 to " + std::to_string(max));
  }
  return static_cast<float>(*value);
}

void read_generation_config(const std::string& folder, HfConfig& hf) {
  const std::string path = folder + "/generation_config.json";
  if (!fs::exists(path)) return;
  const json document = read_json_file(path);
  const JsonObject object(document, path);
  constexpr double kMaxFactor = 1000;
  GenerationDefaults& to = hf.generation;
  to.do_sample = object.find_boolean("do_sample").value_or(to.do_sample);
  to.temperature = number_in(object, "temperature", to.temperature, kMaxFactor);
  to.top_p = number_in(object, "top_p", to.top_p, 1);
  to.min_p = number_in(object, "min_p", to.min_p, 1);
  to.repetition_penalty =
      number_in(object, "repetition_penalty", to.repetition_penalty, kMaxFactor);
  to.top_k = object.find_integer("top_k").value_or(to.top_k);
  if (to.top_k < 0 || to.top_k > kMaxSize) {
    object.fail("top_k", "found " + std::to_string(to.top_k) + ", expected 0 (all tokens) to " +
                             std::to_string(kMaxSize));
  }
  add_ids(object, "eos_token_id", hf.config.vocab_size, hf.stop_ids);
}

// A string, or a list of {name, template} of which "default" is the one for chats without tools.
std::string template_in(const JsonObject& object) {
  const json* value = object.find("chat_template");
  if (value == nullptr) return "";
  if (value->is_string()) return value->get<std::string>();
  if (value->is_array()) {
    for (const json& entry : *value) {
      const JsonObject named(entry, object.file(), "chat_template[].");
      if (named.find_string("name") == "default") {
        return named.find_string("template").value_or("");
      }
    }
  }
  object.fail("chat_template",
              "expected a string, or a list of {name, template} with the name \"default\"");
}

void read_tokenizer_config(const std::string& folder, HfConfig& hf) {
  const std::string jinja = folder + "/chat_template.jinja";
  if (fs::exists(jinja)) {
    constexpr uint64_t kMaxTemplateBytes = 16 << 20;
    const File file(jinja);
    if (file.size() > kMaxTemplateBytes) {
      throw Error(jinja + ": has " + std::to_string(file.size()) + " bytes, expected at most " +
                  std::to_string(kMaxTemplateBytes));
    }
    hf.chat_template.resize(file.size());
    file.read(0, std::as_writable_bytes(std::span(hf.chat_template)));
  }
  const std::string path = folder + "/tokenizer_config.json";
  if (!fs::exists(path)) return;
  const json document = read_json_file(path);
  const JsonObject object(document, path);
  hf.add_bos = object.find_boolean("add_bos_token").value_or(false);
  if (hf.chat_template.empty()) hf.chat_template = template_in(object);
}

}  // namespace

HfConfig read_hf_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  if (!fs::exists(path)) {
    throw Error(path + ": missing, expected the configuration of a Hugging Face folder");
  }
  const json document = read_json_file(path);
  const JsonObject root(document, path);
  const JsonObject text = root.find_object("text_config").value_or(root);
  read_architecture(root, text);  // first: of another architecture nothing else makes sense

  HfConfig hf;
  hf.config = read_model(root, text);
  hf.config.name = fs::absolute(folder + "/.").lexically_normal().parent_path().filename().string();
  hf.is_delta_net = read_layer_kinds(text, hf.config);
  add_ids(text, "eos_token_id", hf.config.vocab_size, hf.stop_ids);
  if (hf.stop_ids.empty()) add_ids(root, "eos_token_id", hf.config.vocab_size, hf.stop_ids);
  std::vector<int32_t> bos;
  add_ids(text, "bos_token_id", hf.config.vocab_size, bos);
  if (!bos.empty()) hf.bos_id = bos.front();
  read_generation_config(folder, hf);
  read_tokenizer_config(folder, hf);
  return hf;
}

}  // namespace hotset
