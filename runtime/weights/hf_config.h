// The configuration files of a Hugging Face folder: config.json, generation_config.json,
// tokenizer_config.json and chat_template.jinja; all but the first are optional.
#pragma once

#include <string>
#include <vector>

#include "runtime/weights/model_description.h"

namespace hotset {

struct HfConfig {
  ModelConfig config;
  std::vector<bool> is_delta_net;  // per layer
  std::vector<int32_t> stop_ids;
  int32_t bos_id = -1;
  bool add_bos = false;
  GenerationDefaults generation;
  std::string chat_template;
};

// Throws Error naming file and key; refuses folders quantised by ModelOpt.
HfConfig read_hf_config(const std::string& folder);

}  // namespace hotset
