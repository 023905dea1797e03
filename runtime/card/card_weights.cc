#include "runtime/card/card_weights.h"

namespace hotset {

namespace {

struct Moved {
  const std::byte* from;
  std::byte* to;

  void operator()(const float*& vector) const {
    if (vector == nullptr) return;
    vector =
        reinterpret_cast<const float*>(to + (reinterpret_cast<const std::byte*>(vector) - from));
  }
  void operator()(PackedMatrix& matrix) const {
    if (matrix.data != nullptr) matrix.data = to + (matrix.data - from);
  }
};

}  // namespace

Weights weights_at(const Weights& weights, std::byte* image) {
  const Moved move{weights.memory.data(), image};
  Weights moved;
  moved.image_bytes = weights.image_bytes;
  moved.layers = weights.layers;
  moved.final_norm = weights.final_norm;
  moved.output = weights.output;
  moved.packed_bytes = weights.packed_bytes;
  moved.ordered_inputs = weights.ordered_inputs;
  move(moved.final_norm);
  move(moved.output);
  for (LayerWeights& layer : moved.layers) {
    for (const float** v : {&layer.mixer_norm, &layer.attention.q_norm, &layer.attention.k_norm,
                            &layer.delta_net.conv, &layer.delta_net.dt_bias, &layer.delta_net.a,
                            &layer.delta_net.norm, &layer.moe.norm}) {
      move(*v);
    }
    AttentionWeights& a = layer.attention;
    DeltaNetWeights& d = layer.delta_net;
    MoeWeights& m = layer.moe;
    for (PackedMatrix* p : {&a.q, &a.k, &a.v, &a.o, &d.qkv, &d.z, &d.ba, &d.out, &m.router,
                            &m.shared_gate, &m.shared.gate, &m.shared.up, &m.shared.down}) {
      move(*p);
    }
  }
  return moved;
}

}  // namespace hotset
