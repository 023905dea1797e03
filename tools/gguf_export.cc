#include "tools/gguf_export.h"

#include <algorithm>

#include "kernels/check.h"

namespace hotset {
namespace {

// llama.cpp's numbers for "mostly this type".
constexpr int64_t kFileTypeQ4_0 = 2, kFileTypeQ8_0 = 7;
constexpr int64_t kQuantizationVersion = 2;
enum TokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

bool is_next(const ModelConfig& config) {
  return config.architecture == Architecture::kQwen3Next;
}

// The interval that gives exactly the model's full-attention layers, or 0.
int64_t attention_interval(const ModelDescription& model) {
  const auto count = std::ssize(model.layers);
  for (int64_t interval = 1; interval <= count; ++interval) {
    bool fits = true;
    for (int64_t i = 0; i < count; ++i) {
      fits = fits && model.layers[i].is_delta_net == ((i + 1) % interval != 0);
    }
    if (fits) return interval;
  }
  return 0;
}

void add_delta_net_keys(GgufWriter& writer, const ModelDescription& model, const std::string& p) {
  const ModelConfig& c = model.config;
  writer.add_u32(p + "ssm.conv_kernel", c.linear_conv_kernel_dim);
  writer.add_u32(p + "ssm.state_size", c.linear_key_head_dim);
  writer.add_u32(p + "ssm.group_count", c.linear_num_key_heads);
  writer.add_u32(p + "ssm.time_step_rank", c.linear_num_value_heads);
  writer.add_u32(p + "ssm.inner_size", c.linear_value_dim());
  if (const int64_t interval = attention_interval(model); interval > 0) {
    writer.add_u32(p + "full_attention_interval", interval);
    return;
  }
  std::vector<int32_t> recurrent;
  for (const LayerTensors& layer : model.layers) recurrent.push_back(layer.is_delta_net ? 1 : 0);
  writer.add_i32s(p + "attention.recurrent_layers", recurrent);
}

void add_model_keys(GgufWriter& writer, const ModelDescription& model, TensorType expert_type) {
  const ModelConfig& c = model.config;
  const std::string architecture = is_next(c) ? "qwen3next" : "qwen3moe";
  const std::string p = architecture + ".";
  writer.add_string("general.architecture", architecture);
  writer.add_string("general.type", "model");
  writer.add_string("general.name", c.name);
  writer.add_u32("general.file_type",
                 expert_type == TensorType::kQ4_0 ? kFileTypeQ4_0 : kFileTypeQ8_0);
  writer.add_u32("general.quantization_version", kQuantizationVersion);
  writer.add_u32(p + "vocab_size", c.vocab_size);
  writer.add_u32(p + "block_count", c.num_hidden_layers);
  writer.add_u32(p + "context_length", c.max_position_embeddings);
  writer.add_u32(p + "embedding_length", c.hidden_size);
  writer.add_u32(p + "feed_forward_length", c.moe_intermediate_size);  // required, not used
  writer.add_u32(p + "attention.head_count", c.num_attention_heads);
  writer.add_u32(p + "attention.head_count_kv", c.num_key_value_heads);
  writer.add_u32(p + "attention.key_length", c.head_dim);
  writer.add_u32(p + "attention.value_length", c.head_dim);
  writer.add_f32(p + "attention.layer_norm_rms_epsilon", c.rms_norm_eps);
  writer.add_u32(p + "rope.dimension_count", c.rotary_dim);
  writer.add_f32(p + "rope.freq_base", c.rope_theta);
  writer.add_u32(p + "expert_count", c.num_experts);
  writer.add_u32(p + "expert_used_count", c.num_experts_per_tok);
  writer.add_u32(p + "expert_feed_forward_length", c.moe_intermediate_size);
  if (c.shared_expert_intermediate_size > 0) {
    writer.add_u32(p + "expert_shared_feed_forward_length", c.shared_expert_intermediate_size);
  }
  // The architectures' own rule needs no key.
  if (!c.norm_topk_prob) writer.add_bool(p + "expert_weights_norm", false);
  if (is_next(c)) add_delta_net_keys(writer, model, p);
}

const char* pre_tokenizer_name(SplitRule rule) {
  switch (rule) {
    case SplitRule::kQwen2:
      return "qwen2";
    case SplitRule::kGpt4o:
      return "gpt-4o";
    case SplitRule::kDeepseekV3:
      return "deepseek-v3";
    case SplitRule::kGpt2:
      break;
  }
  throw Error(
      "quantize: the tokenizer splits text as GPT-2 does, expected qwen2, gpt-4o or "
      "deepseek-v3, for which a GGUF has a name that is read");
}

void add_token_lists(GgufWriter& writer, const Vocabulary& vocabulary, int64_t vocab_size) {
  std::vector<std::string> tokens = vocabulary.tokens;
  tokens.resize(static_cast<size_t>(vocab_size));
  std::vector<int32_t> types(tokens.size(), kNormal);
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (!tokens[id].empty()) continue;
    tokens[id] = "[PAD" + std::to_string(id) + "]";
    types[id] = kUnused;
  }
  for (const AddedToken& token : vocabulary.added) {
    tokens[token.id] = token.text;
    types[token.id] = token.special ? kControl : kUserDefined;
  }
  std::vector<std::string> merges;
  merges.reserve(vocabulary.merges.size());
  for (const auto& [left, right] : vocabulary.merges) merges.push_back(left + " " + right);
  writer.add_strings("tokenizer.ggml.tokens", tokens);
  writer.add_i32s("tokenizer.ggml.token_type", types);
  writer.add_strings("tokenizer.ggml.merges", merges);
}

void add_vocabulary_keys(GgufWriter& writer, const ModelDescription& model) {
  if (!model.vocabulary) {
    writer.add_string("tokenizer.ggml.model", "no_vocab");
    return;
  }
  const Vocabulary& vocabulary = *model.vocabulary;
  writer.add_string("tokenizer.ggml.model", "gpt2");
  writer.add_string("tokenizer.ggml.pre", pre_tokenizer_name(vocabulary.split));
  add_token_lists(writer, vocabulary, model.config.vocab_size);
  // A GGUF has three keys for ids that end a text.
  const char* const stop_keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                   "tokenizer.ggml.eom_token_id"};
  std::vector<int32_t> stops = model.stop_ids;
  if (stops.empty() && vocabulary.eos_id >= 0) stops.push_back(vocabulary.eos_id);
  for (size_t i = 0; i < stops.size() && i < std::size(stop_keys); ++i) {
    writer.add_u32(stop_keys[i], stops[i]);
  }
  if (vocabulary.bos_id >= 0) writer.add_u32("tokenizer.ggml.bos_token_id", vocabulary.bos_id);
  for (const AddedToken& token : vocabulary.added) {
    if (token.text == "<|endoftext|>") writer.add_u32("tokenizer.ggml.padding_token_id", token.id);
  }
  writer.add_bool("tokenizer.ggml.add_bos_token", vocabulary.add_bos);
  if (!model.chat_template.empty()) {
    writer.add_string("tokenizer.chat_template", model.chat_template);
  }
}

class TensorPlanner {
 public:
  TensorPlanner(GgufWriter& writer, const ModelDescription& model, TensorType expert_type)
      : writer_(writer), model_(model), config_(model.config), expert_type_(expert_type) {}

  ExportPlan plan() {
    matrix("token_embd.weight", model_.embedding, TensorType::kQ8_0);
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      layer("blk." + std::to_string(i) + ".", model_.layers[i]);
    }
    vector("output_norm.weight", model_.final_norm, {config_.hidden_size});
    if (!config_.tie_word_embeddings) matrix("output.weight", model_.output, TensorType::kQ8_0);
    return std::move(plan_);
  }

 private:
  static TensorType fitting(TensorType type, int64_t k) {
    return k % info(type).block_size == 0 ? type : TensorType::kF32;
  }

  void vector(const std::string& name, const Vector& values, const std::vector<int64_t>& dims) {
    plan_.vectors.push_back({writer_.add_tensor(name, TensorType::kF32, dims), values});
  }

  void copy_rows(size_t tensor, uint64_t offset, TensorType type, const MatrixSource& source,
                 int64_t first_row, int64_t rows) {
    const TensorType from = source.type;
    if (from != TensorType::kF32 && from != TensorType::kF16 && from != TensorType::kBF16) {
      throw Error(model_.path + ": tensor " + source.name + ": is " + std::string(info(from).name) +
                  ", expected BF16, F16 or F32: quantising twice loses more than it saves");
    }
    plan_.matrices.push_back({source, first_row, rows, tensor, offset, type});
  }

  void matrix(const std::string& name, const MatrixSource& source, TensorType type) {
    type = fitting(type, source.k);
    const size_t tensor = writer_.add_tensor(name, type, {source.n, source.k});
    copy_rows(tensor, 0, type, source, 0, source.n);
  }

  void layer(const std::string& p, const LayerTensors& from) {
    const int64_t hidden = config_.hidden_size;
    vector(p + "attn_norm.weight", from.mixer_norm, {hidden});
    vector(p + (is_next(config_) ? "post_attention_norm.weight" : "ffn_norm.weight"), from.moe_norm,
           {hidden});
    if (from.is_delta_net) {
      delta_net(p, from.delta_net);
    } else {
      attention(p, from.attention);
    }
    matrix(p + "ffn_gate_inp.weight", from.router, TensorType::kF32);
    experts(p + "ffn_gate_exps.weight", from.experts, &ExpertSourceTensors::gate);
    experts(p + "ffn_up_exps.weight", from.experts, &ExpertSourceTensors::up);
    experts(p + "ffn_down_exps.weight", from.experts, &ExpertSourceTensors::down);
    if (!from.shared_expert) return;
    matrix(p + "ffn_gate_shexp.weight", from.shared_expert->gate, TensorType::kQ8_0);
    matrix(p + "ffn_up_shexp.weight", from.shared_expert->up, TensorType::kQ8_0);
    matrix(p + "ffn_down_shexp.weight", from.shared_expert->down, TensorType::kQ8_0);
    const size_t gate =
        writer_.add_tensor(p + "ffn_gate_inp_shexp.weight", TensorType::kF32, {hidden});
    copy_rows(gate, 0, TensorType::kF32, from.shared_expert_gate, 0, 1);
  }

  void attention(const std::string& p, const AttentionTensors& from) {
    matrix(p + "attn_q.weight", from.q, TensorType::kQ8_0);
    matrix(p + "attn_k.weight", from.k, TensorType::kQ8_0);
    matrix(p + "attn_v.weight", from.v, TensorType::kQ8_0);
    matrix(p + "attn_output.weight", from.o, TensorType::kQ8_0);
    vector(p + "attn_q_norm.weight", from.q_norm, {config_.head_dim});
    vector(p + "attn_k_norm.weight", from.k_norm, {config_.head_dim});
  }

  void delta_net(const std::string& p, const DeltaNetTensors& from) {
    const int64_t heads = config_.linear_num_value_heads;
    matrix(p + "attn_qkv.weight", from.qkv, TensorType::kQ8_0);
    matrix(p + "attn_gate.weight", from.z, TensorType::kQ8_0);
    grouped_ba(p + "ssm_ba.weight", from.ba);
    matrix(p + "ssm_out.weight", from.out, TensorType::kQ8_0);
    vector(p + "ssm_conv1d.weight", from.conv,
           {config_.conv_channels(), config_.linear_conv_kernel_dim});
    vector(p + "ssm_dt.bias", from.dt_bias, {heads});
    vector(p + "ssm_a", from.a, {heads});
    vector(p + "ssm_norm.weight", from.norm, {config_.linear_value_head_dim});
  }

  // The file has b | a of each key head's value heads; the description b of all | a of all.
  void grouped_ba(const std::string& name, const MatrixSource& ba) {
    const size_t tensor = writer_.add_tensor(name, TensorType::kF32, {ba.n, ba.k});
    const int64_t groups = config_.linear_num_key_heads, heads = config_.linear_num_value_heads;
    const int64_t each = heads / groups;
    uint64_t offset = 0;
    for (int64_t g = 0; g < groups; ++g) {
      for (const int64_t first : {g * each, heads + g * each}) {
        copy_rows(tensor, offset, TensorType::kF32, ba, first, each);
        offset += static_cast<uint64_t>(each * row_bytes(TensorType::kF32, ba.k));
      }
    }
  }

  void experts(const std::string& name, const std::vector<ExpertSourceTensors>& from,
               MatrixSource ExpertSourceTensors::*part) {
    const MatrixSource& first = from.front().*part;
    const TensorType type = fitting(expert_type_, first.k);
    const size_t tensor = writer_.add_tensor(name, type, {std::ssize(from), first.n, first.k});
    const auto bytes = static_cast<uint64_t>(first.n * row_bytes(type, first.k));
    for (size_t e = 0; e < from.size(); ++e) {
      copy_rows(tensor, e * bytes, type, from[e].*part, 0, first.n);
    }
  }

  GgufWriter& writer_;
  const ModelDescription& model_;
  const ModelConfig& config_;
  const TensorType expert_type_;
  ExportPlan plan_;
};

}  // namespace

ExportPlan plan_export(GgufWriter& writer, const ModelDescription& model, TensorType expert_type) {
  add_model_keys(writer, model, expert_type);
  add_vocabulary_keys(writer, model);
  return TensorPlanner(writer, model, expert_type).plan();
}

}  // namespace hotset
