// Cosines and sines of the rotary embedding, made once at start.
#pragma once

#include <vector>

#include "runtime/weights/model_description.h"

namespace hotset {

struct RopeTable {
  std::vector<float> cos, sin;  // [positions][rotary_dim / 2]
};
RopeTable rope_table(const ModelConfig& config, int64_t positions);

}  // namespace hotset
