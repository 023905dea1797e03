// The weights that every token needs, packed, as the forward pass reads them. `Weights` owns the
// memory, everything else is a view. Experts are not here: they live in the expert cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/memory.h"
#include "kernels/packed.h"
#include "runtime/weights/model_description.h"

namespace hotset {

class Sidecar;

struct AttentionWeights {
  int64_t index = 0;        // among the attention layers: selects the KV planes
  PackedMatrix q, k, v, o;  // q: [heads * (2 if gated) * dim, H]
  const float *q_norm = nullptr, *k_norm = nullptr;  // [dim]
};

struct DeltaNetWeights {
  int64_t index = 0;  // among the delta-net layers: selects the state
  PackedMatrix qkv, z, ba, out;
  const float* conv = nullptr;  // [width][channels], oldest input first
  const float *dt_bias = nullptr, *a = nullptr, *norm = nullptr;
};

struct MoeWeights {
  const float* norm = nullptr;
  PackedMatrix router;
  bool has_shared_expert = false;
  PackedMatrix shared_gate;  // [1, H]
  ExpertView shared;
};

struct LayerWeights {
  const float* mixer_norm = nullptr;
  bool is_delta_net = false;
  AttentionWeights attention;
  DeltaNetWeights delta_net;
  MoeWeights moe;
};

struct Weights {
  Memory memory;  // the dense image: matrices and vectors as DenseLayout places them
  int64_t image_bytes = 0;
  Memory embedding;  // [vocab] rows in source form
  TensorType embedding_type = TensorType::kF32;
  std::vector<LayerWeights> layers;
  const float* final_norm = nullptr;
  PackedMatrix output;
  int64_t packed_bytes = 0;            // matrices that one token reads
  int64_t ordered_inputs = 0;          // most inputs of a matrix that has an order; 0: none has
  std::vector<uint8_t> exact_in_bf16;  // by matrix of the layout: see DenseLayout

  int64_t layers_of_kind(bool delta_net) const {
    return std::count_if(layers.begin(), layers.end(), [&](const LayerWeights& layer) {
      return layer.is_delta_net == delta_net;
    });
  }
};

// Called with (bytes of source done, bytes in all); may throw to stop.
using LoadProgress = std::function<void(int64_t, int64_t)>;

// Weights without their bytes: how large they will be, and of which shapes.
Weights plan_weights(const ModelDescription& description);

// Reads and packs in parallel (oneTBB). Throws Error naming file and tensor. The dense image comes
// from the sidecar where there is one and it is whole; the vectors and the embedding are the model
// file's, which has them as memory does.
Weights load_weights(const ModelDescription& description, Sidecar* sidecar,
                     const LoadProgress& progress);
// All of it but the embedding.
Weights load_image(const ModelDescription& description, Sidecar* sidecar,
                   const LoadProgress& progress);

}  // namespace hotset
