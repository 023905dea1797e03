// What the describers of the two containers share: each says under which names its container keeps
// the parts of a model and in which form; the shapes, the row orders and the checks are written
// once, in describe_tensors.cc. Internal to runtime/weights.
#pragma once

#include <string>
#include <vector>

#include "runtime/weights/model_description.h"

namespace hotset {

inline constexpr int64_t kMaxLayers = 1 << 16;
inline constexpr int64_t kMaxSize = 1 << 24;  // of any other size in a configuration

// How a container calls the values that check_config looks at.
struct ConfigKeys {
  std::string num_attention_heads, num_key_value_heads, head_dim, rotary_dim;
  std::string num_experts, num_experts_per_tok, linear_num_key_heads, linear_num_value_heads;
  std::string rms_norm_eps, rope_theta;
};
// The relations between values; their single ranges are checked where they are read.
void check_config(const ModelConfig& config, const std::string& file, const ConfigKeys& keys);

// Names of a layer's tensors; "" where the container has no such form.
struct LayerNames {
  std::string mixer_norm, moe_norm;
  std::string q, k, v, o, q_norm, k_norm;
  std::string qkvz;    // grouped by key head: q | k | v | z of each
  std::string qkv, z;  // used where there is no qkvz
  std::string ba;      // grouped by key head: b | a of each
  std::string conv, dt_bias, a, delta_norm, delta_out;
  std::string router;
  std::string expert_prefix;                 // one tensor an expert: PREFIX + "3.gate_proj.weight"
  std::vector<std::string> gate_up_experts;  // all experts, gate rows first: any of these names
  std::vector<std::string> down_experts;     // all experts: any of these names
  std::string gate_experts, up_experts;      // all experts, apart
  std::string shared_gate, shared_up, shared_down, shared_expert_gate;
};

// Two implementations: GGUF and safetensors.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const TensorInfo* find(const std::string& name) const = 0;
  virtual const TensorInfo& need(const std::string& name) const = 0;  // throws Error
  // The weight of that name, [n, k], where it is quantised by a scheme of Hugging Face folders.
  virtual std::shared_ptr<const QuantisedMatrix> quantised(const std::string& /*name*/,
                                                           int64_t /*n*/, int64_t /*k*/) const {
    return nullptr;
  }
  virtual LayerNames layer_names(int64_t layer) const = 0;
  virtual std::string embedding_name() const = 0;
  virtual std::string output_name() const = 0;
  virtual std::string final_norm_name() const = 0;
  // Added to the norm weights to make them factors, but not to the delta net's own norm.
  virtual float norm_offset() const = 0;
  virtual bool stores_a_log() const = 0;  // the decay is kept as A_log, not as -exp(A_log)
};

// Fills in embedding, output, final_norm and layers for model.config.
void describe_tensors(ModelDescription& model, const TensorSource& source,
                      const std::vector<bool>& is_delta_net);

ModelDescription describe_gguf(const std::string& path);
ModelDescription describe_hf(const std::string& folder);

}  // namespace hotset
