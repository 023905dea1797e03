// Describes a Hugging Face folder: names of its tensors, and which files it is made of. Its
// configuration files are read in hf_config.cc.
#include <filesystem>

#include "kernels/check.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/weights/checksum.h"
#include "runtime/weights/describe.h"
#include "runtime/weights/hf_config.h"
#include "runtime/weights/json.h"
#include "runtime/weights/quantised/quantised.h"
#include "runtime/weights/safetensors.h"

namespace hotset {
namespace {

class SafetensorsSource : public TensorSource {
 public:
  SafetensorsSource(const SafetensorsFolder& folder, Architecture architecture,
                    const QuantisedScheme* scheme)
      : folder_(folder),
        scheme_(scheme),
        architecture_(architecture),
        // Multimodal checkpoints keep the text model one level deeper.
        prefix_(folder.find("model.language_model.embed_tokens.weight") != nullptr
                    ? "model.language_model."
                    : "model.") {}

  const TensorInfo* find(const std::string& name) const override { return folder_.find(name); }
  const TensorInfo& need(const std::string& name) const override { return folder_.need(name); }

  std::shared_ptr<const QuantisedMatrix> quantised(const std::string& name, int64_t n,
                                                   int64_t k) const override {
    constexpr std::string_view kWeight = ".weight";
    if (scheme_ == nullptr || !name.ends_with(kWeight)) return nullptr;
    return scheme_->find(name.substr(0, name.size() - kWeight.size()), n, k);
  }

  LayerNames layer_names(int64_t layer) const override {
    const std::string p = prefix_ + "layers." + std::to_string(layer) + ".";
    LayerNames names;
    names.mixer_norm = p + "input_layernorm.weight";
    names.moe_norm = p + "post_attention_layernorm.weight";
    names.q = p + "self_attn.q_proj.weight";
    names.k = p + "self_attn.k_proj.weight";
    names.v = p + "self_attn.v_proj.weight";
    names.o = p + "self_attn.o_proj.weight";
    names.q_norm = p + "self_attn.q_norm.weight";
    names.k_norm = p + "self_attn.k_norm.weight";
    names.qkvz = p + "linear_attn.in_proj_qkvz.weight";
    names.ba = p + "linear_attn.in_proj_ba.weight";
    names.conv = p + "linear_attn.conv1d.weight";
    names.dt_bias = p + "linear_attn.dt_bias";
    names.a = p + "linear_attn.A_log";
    names.delta_norm = p + "linear_attn.norm.weight";
    names.delta_out = p + "linear_attn.out_proj.weight";
    names.router = p + "mlp.gate.weight";
    names.expert_prefix = p + "mlp.experts.";
    names.gate_up_experts = {p + "mlp.experts.gate_up_proj", p + "mlp.experts.gate_up_proj.weight"};
    names.down_experts = {p + "mlp.experts.down_proj", p + "mlp.experts.down_proj.weight"};
    names.shared_gate = p + "mlp.shared_expert.gate_proj.weight";
    names.shared_up = p + "mlp.shared_expert.up_proj.weight";
    names.shared_down = p + "mlp.shared_expert.down_proj.weight";
    names.shared_expert_gate = p + "mlp.shared_expert_gate.weight";
    return names;
  }

  std::string embedding_name() const override { return prefix_ + "embed_tokens.weight"; }
  std::string output_name() const override { return "lm_head.weight"; }
  std::string final_norm_name() const override { return prefix_ + "norm.weight"; }
  float norm_offset() const override {
    return architecture_ == Architecture::kQwen3Next ? 1.0f : 0.0f;
  }
  bool stores_a_log() const override { return true; }

 private:
  const SafetensorsFolder& folder_;
  const QuantisedScheme* const scheme_;  // null: the weights are floats
  const Architecture architecture_;
  const std::string prefix_;
};

Vocabulary read_vocabulary(const std::string& folder, const HfConfig& hf) {
  const std::string path = folder + "/tokenizer.json";
  if (!std::filesystem::exists(path)) {
    throw Error(path + ": missing; a Hugging Face folder needs its tokenizer.json");
  }
  Vocabulary vocabulary = read_tokenizer_json(path, hf.config.vocab_size);
  // tokenizer.json knows no roles; the configurations do.
  if (vocabulary.bos_id < 0) vocabulary.bos_id = hf.bos_id;
  if (vocabulary.eos_id < 0 && !hf.stop_ids.empty()) vocabulary.eos_id = hf.stop_ids.front();
  vocabulary.add_bos = vocabulary.add_bos || hf.add_bos;
  return vocabulary;
}

}  // namespace

ModelDescription describe_hf(const std::string& path) {
  HfConfig hf = read_hf_config(path);
  const auto folder = std::make_shared<const SafetensorsFolder>(path);
  ModelDescription model;
  model.path = path;
  model.owner = folder;
  model.files = folder->files();
  model.config = hf.config;
  const std::string config = path + "/config.json";
  const nlohmann::json document = read_json_file(config);
  model.config_checksum = Checksum().add(document.dump()).value();
  const auto scheme = open_scheme(document, config, *folder);
  describe_tensors(model, SafetensorsSource(*folder, hf.config.architecture, scheme.get()),
                   hf.is_delta_net);
  model.vocabulary = read_vocabulary(path, hf);
  model.chat_template = std::move(hf.chat_template);
  model.stop_ids = std::move(hf.stop_ids);
  model.generation = hf.generation;
  return model;
}

}  // namespace hotset
