// Describes a GGUF model: its keys, names of its tensors, its vocabulary. Both as llama.cpp writes
// them (gguf-py/gguf/constants.py).
#include <algorithm>
#include <filesystem>

#include "kernels/check.h"
#include "runtime/tokenizer/gguf_vocabulary.h"
#include "runtime/weights/describe.h"
#include "runtime/weights/messages.h"

namespace hotset {
namespace {

constexpr const char* kQwen3Next = "qwen3next";
constexpr const char* kQwen3Moe = "qwen3moe";

class GgufSource : public TensorSource {
 public:
  GgufSource(const GgufFile& file, Architecture architecture)
      : file_(file), architecture_(architecture) {}

  const TensorInfo* find(const std::string& name) const override { return file_.find(name); }
  const TensorInfo& need(const std::string& name) const override {
    const TensorInfo* tensor = file_.find(name);
    if (tensor == nullptr) throw Error(file_.path() + ": tensor " + name + " is missing");
    return *tensor;
  }

  LayerNames layer_names(int64_t layer) const override {
    const std::string p = "blk." + std::to_string(layer) + ".";
    const bool next = architecture_ == Architecture::kQwen3Next;
    LayerNames names;
    names.mixer_norm = p + "attn_norm.weight";
    names.moe_norm = p + (next ? "post_attention_norm.weight" : "ffn_norm.weight");
    names.q = p + "attn_q.weight";
    names.k = p + "attn_k.weight";
    names.v = p + "attn_v.weight";
    names.o = p + "attn_output.weight";
    names.q_norm = p + "attn_q_norm.weight";
    names.k_norm = p + "attn_k_norm.weight";
    names.qkvz = p + "ssm_in.weight";  // only files of the first converter have it
    names.qkv = p + "attn_qkv.weight";
    names.z = p + "attn_gate.weight";
    names.ba = p + "ssm_ba.weight";
    names.conv = p + "ssm_conv1d.weight";
    names.dt_bias = p + "ssm_dt.bias";
    names.a = p + "ssm_a";
    names.delta_norm = p + "ssm_norm.weight";
    names.delta_out = p + "ssm_out.weight";
    names.router = p + "ffn_gate_inp.weight";
    names.gate_up_experts = {p + "ffn_gate_up_exps.weight"};
    names.gate_experts = p + "ffn_gate_exps.weight";
    names.up_experts = p + "ffn_up_exps.weight";
    names.down_experts = {p + "ffn_down_exps.weight"};
    names.shared_gate = p + "ffn_gate_shexp.weight";
    names.shared_up = p + "ffn_up_shexp.weight";
    names.shared_down = p + "ffn_down_shexp.weight";
    names.shared_expert_gate = p + "ffn_gate_inp_shexp.weight";
    return names;
  }

  std::string embedding_name() const override { return "token_embd.weight"; }
  std::string output_name() const override { return "output.weight"; }
  std::string final_norm_name() const override { return "output_norm.weight"; }
  float norm_offset() const override { return 0; }  // the converter added it
  bool stores_a_log() const override { return false; }

 private:
  const GgufFile& file_;
  const Architecture architecture_;
};

// The keys under the architecture's prefix.
class Keys {
 public:
  Keys(const GgufFile& file, std::string architecture)
      : file_(file), prefix_(std::move(architecture) + ".") {}

  std::string name(const std::string& key) const { return prefix_ + key; }
  bool has(const std::string& key) const { return file_.has(name(key)); }

  [[noreturn]] void fail(const std::string& key, const std::string& what) const {
    throw Error(file_.path() + ": " + name(key) + ": " + what);
  }

  int64_t size(const std::string& key, int64_t max = kMaxSize) const {
    const int64_t value = file_.integer(name(key));
    if (value < 1 || value > max) {
      fail(key, "found " + std::to_string(value) + ", expected 1 to " + std::to_string(max));
    }
    return value;
  }
  int64_t size_or(const std::string& key, int64_t otherwise) const {
    return has(key) ? size(key) : otherwise;
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

Architecture read_architecture(const GgufFile& file) {
  const std::string& name = file.string("general.architecture");
  if (name == kQwen3Next) return Architecture::kQwen3Next;
  if (name == kQwen3Moe) return Architecture::kQwen3Moe;
  throw Error(file.path() + ": general.architecture: found \"" + printable(name) +
              "\", expected one of those that are read: qwen3next, qwen3moe");
}

void read_delta_net_keys(const Keys& keys, ModelConfig& config) {
  config.linear_num_key_heads = keys.size("ssm.group_count");
  config.linear_num_value_heads = keys.size("ssm.time_step_rank");
  config.linear_key_head_dim = keys.size("ssm.state_size");
  config.linear_conv_kernel_dim = keys.size("ssm.conv_kernel");
  const int64_t inner = keys.size("ssm.inner_size");
  if (inner % config.linear_num_value_heads != 0) {
    keys.fail("ssm.inner_size", std::to_string(inner) + " is not a multiple of " +
                                    keys.name("ssm.time_step_rank") + " (" +
                                    std::to_string(config.linear_num_value_heads) + ")");
  }
  config.linear_value_head_dim = inner / config.linear_num_value_heads;
  config.shared_expert_intermediate_size = keys.size("expert_shared_feed_forward_length");
}

void refuse_scaled_rope(const GgufFile& file, const Keys& keys) {
  if (!keys.has("rope.scaling.type")) return;
  const std::string& type = file.string(keys.name("rope.scaling.type"));
  if (type != "none") {
    keys.fail("rope.scaling.type",
              "found \"" + printable(type) + "\", expected \"none\": scaled RoPE is not supported");
  }
}

int64_t default_expert_size(const Keys& keys, const ModelConfig& config) {
  if (keys.has("expert_feed_forward_length")) return keys.size("expert_feed_forward_length");
  const int64_t all = keys.size("feed_forward_length");
  if (all % config.num_experts_per_tok != 0) {
    keys.fail("expert_feed_forward_length", "missing, and " + keys.name("feed_forward_length") +
                                                " (" + std::to_string(all) +
                                                ") is not a multiple of the experts used");
  }
  return all / config.num_experts_per_tok;
}

int64_t default_head_dim(const Keys& keys, const ModelConfig& config) {
  if (keys.has("attention.key_length")) return keys.size("attention.key_length");
  if (config.hidden_size % config.num_attention_heads != 0) {
    keys.fail("attention.key_length",
              "missing, and embedding_length is not a multiple of "
              "attention.head_count");
  }
  return config.hidden_size / config.num_attention_heads;
}

ModelConfig read_config(const GgufFile& file) {
  ModelConfig config;
  config.architecture = read_architecture(file);
  const bool next = config.architecture == Architecture::kQwen3Next;
  const Keys keys(file, next ? kQwen3Next : kQwen3Moe);
  config.name = file.has("general.name") ? file.string("general.name")
                                         : std::filesystem::path(file.path()).stem().string();
  config.num_hidden_layers = keys.size("block_count", kMaxLayers);
  config.hidden_size = keys.size("embedding_length");
  config.max_position_embeddings = keys.size("context_length", INT32_MAX);
  config.rms_norm_eps = file.number(keys.name("attention.layer_norm_rms_epsilon"));
  config.num_attention_heads = keys.size("attention.head_count");
  config.num_key_value_heads = keys.size_or("attention.head_count_kv", config.num_attention_heads);
  config.head_dim = default_head_dim(keys, config);
  if (keys.size_or("attention.value_length", config.head_dim) != config.head_dim) {
    keys.fail("attention.value_length", "differs from attention.key_length (" +
                                            std::to_string(config.head_dim) +
                                            "), expected the same");
  }
  config.attention_gate = next;
  config.rotary_dim = keys.size_or("rope.dimension_count", config.head_dim);
  config.rope_theta = file.find_number(keys.name("rope.freq_base")).value_or(10000);
  refuse_scaled_rope(file, keys);
  config.num_experts = keys.size("expert_count");
  config.num_experts_per_tok = keys.size("expert_used_count");
  config.moe_intermediate_size = default_expert_size(keys, config);
  config.norm_topk_prob = true;  // the architectures' own, where no key says otherwise
  if (keys.has("expert_weights_norm")) {
    config.norm_topk_prob = file.boolean(keys.name("expert_weights_norm"));
  }
  if (next) read_delta_net_keys(keys, config);
  check_config(config, file.path(),
               {keys.name("attention.head_count"), keys.name("attention.head_count_kv"),
                keys.name("attention.key_length"), keys.name("rope.dimension_count"),
                keys.name("expert_count"), keys.name("expert_used_count"),
                keys.name("ssm.group_count"), keys.name("ssm.time_step_rank"),
                keys.name("attention.layer_norm_rms_epsilon"), keys.name("rope.freq_base")});
  return config;
}

std::vector<bool> read_layer_kinds(const GgufFile& file, const ModelConfig& config) {
  std::vector<bool> is_delta_net(static_cast<size_t>(config.num_hidden_layers));
  if (config.architecture != Architecture::kQwen3Next) return is_delta_net;
  const Keys keys(file, kQwen3Next);
  if (keys.has("attention.recurrent_layers")) {
    const auto layers = file.integers(keys.name("attention.recurrent_layers"));
    if (layers.size() != is_delta_net.size()) {
      keys.fail("attention.recurrent_layers", "has " + std::to_string(layers.size()) +
                                                  " entries, expected one a layer (" +
                                                  std::to_string(is_delta_net.size()) + ")");
    }
    for (size_t i = 0; i < layers.size(); ++i) is_delta_net[i] = layers[i] != 0;
    return is_delta_net;
  }
  const int64_t interval = keys.size_or("full_attention_interval", 4);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    is_delta_net[i] = (i + 1) % interval != 0;
  }
  return is_delta_net;
}

// The embedding's rows are the vocabulary's size; every other place that states it must agree.
int64_t read_vocab_size(const GgufFile& file, const GgufSource& source, bool has_vocabulary) {
  const TensorInfo& embedding = source.need("token_embd.weight");
  const int64_t rows = embedding.rows();
  if (rows > kMaxSize) {
    throw Error(file.path() + ": tensor token_embd.weight: has " + std::to_string(rows) +
                " rows, expected at most " + std::to_string(kMaxSize));
  }
  const std::string key = file.string("general.architecture") + ".vocab_size";
  if (const auto stated = file.find_integer(key); stated && *stated != rows) {
    throw Error(file.path() + ": " + key + ": found " + std::to_string(*stated) + ", expected " +
                std::to_string(rows) + ", the rows of token_embd.weight");
  }
  if (has_vocabulary) {
    const size_t tokens = file.strings("tokenizer.ggml.tokens").size();
    if (static_cast<int64_t>(tokens) != rows) {
      throw Error(file.path() + ": tokenizer.ggml.tokens: has " + std::to_string(tokens) +
                  " tokens, expected " + std::to_string(rows) + ", the rows of token_embd.weight");
    }
  }
  return rows;
}

std::vector<int32_t> read_stop_ids(const GgufFile& file, int64_t vocab_size) {
  std::vector<int32_t> ids;
  for (const char* which : {"eos", "eot", "eom"}) {
    const std::string key = std::string("tokenizer.ggml.") + which + "_token_id";
    const auto id = file.find_integer(key);
    if (!id) continue;
    if (*id < 0 || *id >= vocab_size) {
      throw Error(file.path() + ": " + key + ": found " + std::to_string(*id) + ", expected 0 to " +
                  std::to_string(vocab_size - 1));
    }
    if (std::find(ids.begin(), ids.end(), *id) == ids.end()) {
      ids.push_back(static_cast<int32_t>(*id));
    }
  }
  return ids;
}

}  // namespace

ModelDescription describe_gguf(const std::string& path) {
  const auto file = std::make_shared<const GgufFile>(path);
  ModelDescription model;
  model.path = path;
  model.owner = file;
  model.files = file->files();
  model.config = read_config(*file);

  const GgufSource source(*file, model.config.architecture);
  const bool has_vocabulary = file->string("tokenizer.ggml.model") != "no_vocab";
  model.config.vocab_size = read_vocab_size(*file, source, has_vocabulary);
  model.config.tie_word_embeddings = file->find(source.output_name()) == nullptr;
  describe_tensors(model, source, read_layer_kinds(*file, model.config));

  model.stop_ids = read_stop_ids(*file, model.config.vocab_size);
  if (has_vocabulary) model.vocabulary = vocabulary_from_gguf(*file);
  if (file->has("tokenizer.chat_template")) {
    model.chat_template = file->string("tokenizer.chat_template");
  }
  return model;
}

}  // namespace hotset
