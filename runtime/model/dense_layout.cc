#include "runtime/model/dense_layout.h"

#include <algorithm>
#include <cstring>

#include "runtime/model/pack_matrix.h"

namespace hotset {

namespace {

// [channels][width] as files have it -> [width][channels] as the kernel reads it.
std::vector<float> transposed(const std::vector<float>& m, int64_t columns) {
  const int64_t rows = std::ssize(m) / columns;
  std::vector<float> t(m.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) t[c * rows + r] = m[r * columns + c];
  }
  return t;
}

}  // namespace

Weights plan_weights(const ModelDescription& description) {
  Weights w;
  const DenseLayout layout(
      description, [](const MatrixSource&, size_t) { return false; }, w);
  for (const DensePlacement& p : layout.placements()) {
    if (p.to != nullptr) p.to->shape = p.shape;
  }
  return w;
}

DenseLayout::DenseLayout(const ModelDescription& d, const ExactInBf16& exact_in_bf16,
                         Weights& weights)
    : exact_in_bf16_(exact_in_bf16), weights_(weights) {
  weights.layers.resize(d.layers.size());
  for (size_t i = 0; i < d.layers.size(); ++i) layer(d.config, d.layers[i], weights.layers[i]);
  vector(d.final_norm, &weights.final_norm);
  matrix(d.output, &weights.output);
  weights.image_bytes = bytes_;
  weights.embedding_type = d.embedding.type;
}

void DenseLayout::layer(const ModelConfig& config, const LayerTensors& t, LayerWeights& layer) {
  vector(t.mixer_norm, &layer.mixer_norm);
  layer.is_delta_net = t.is_delta_net;
  if (t.is_delta_net) {
    layer.delta_net.index = delta_layers_++;
    matrix(t.delta_net.qkv, &layer.delta_net.qkv);
    matrix(t.delta_net.z, &layer.delta_net.z);
    matrix(t.delta_net.ba, &layer.delta_net.ba, true);
    matrix(t.delta_net.out, &layer.delta_net.out);
    vector(transposed(t.delta_net.conv, config.linear_conv_kernel_dim), &layer.delta_net.conv);
    vector(t.delta_net.dt_bias, &layer.delta_net.dt_bias);
    vector(t.delta_net.a, &layer.delta_net.a);
    vector(t.delta_net.norm, &layer.delta_net.norm);
  } else {
    layer.attention.index = attention_layers_++;
    matrix(t.attention.q, &layer.attention.q);
    matrix(t.attention.k, &layer.attention.k);
    matrix(t.attention.v, &layer.attention.v);
    matrix(t.attention.o, &layer.attention.o);
    vector(t.attention.q_norm, &layer.attention.q_norm);
    vector(t.attention.k_norm, &layer.attention.k_norm);
  }
  moe(t, layer.moe);
}

void DenseLayout::moe(const LayerTensors& t, MoeWeights& w) {
  vector(t.moe_norm, &w.norm);
  matrix(t.router, &w.router, true);
  if (!t.shared_expert) return;
  w.has_shared_expert = true;
  matrix(t.shared_expert_gate, &w.shared_gate, true);
  matrix(t.shared_expert->gate, &w.shared.gate);
  matrix(t.shared_expert->up, &w.shared.up);
  matrix(t.shared_expert->down, &w.shared.down);
}

void DenseLayout::matrix(const MatrixSource& source, PackedMatrix* to, bool as_float) {
  const bool is_exact = exact_in_bf16_(source, weights_.exact_in_bf16.size());
  weights_.exact_in_bf16.push_back(is_exact ? 1 : 0);
  PackedFormat format = packed_format(source, is_exact);
  if (as_float && !format.is_float()) format = packed_format(TensorType::kF32);
  DensePlacement p;
  p.matrix = &source;
  p.shape = packed_shape(format, source.n, source.k);
  p.to = to;
  p.at = reserve(p.shape.bytes);
  source_bytes_ += source.bytes();
  weights_.packed_bytes += p.shape.bytes;
  if (format.has_order) weights_.ordered_inputs = std::max(weights_.ordered_inputs, source.k);
  placements_.push_back(std::move(p));
}

void DenseLayout::vector(std::vector<float> values, const float** to) {
  DensePlacement p;
  p.at = reserve(static_cast<int64_t>(values.size()) * 4);
  p.vector = std::move(values);
  p.vector_to = to;
  placements_.push_back(std::move(p));
}

int64_t DenseLayout::reserve(int64_t bytes) {
  const int64_t at = bytes_;
  bytes_ = (bytes_ + bytes + 63) / 64 * 64;
  return at;
}

void DenseLayout::place(Weights& weights) const {
  for (const DensePlacement& p : placements_) {
    std::byte* at = weights.memory.data() + p.at;
    if (p.matrix != nullptr) {
      *p.to = {p.shape, at};
    } else {
      std::memcpy(at, p.vector.data(), p.vector.size() * sizeof(float));
      *p.vector_to = reinterpret_cast<const float*>(at);
    }
  }
}

}  // namespace hotset
