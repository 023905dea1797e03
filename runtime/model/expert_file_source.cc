#include "runtime/model/expert_file_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"
#include "runtime/model/pack_matrix.h"

namespace hotset {

namespace {

// Every expert of a layer has the layout of the layer's first: slots of a layer are of one size.
ExpertShape layer_shape(const LayerTensors& layer) {
  const ExpertSourceTensors& first = layer.experts.front();
  for (const ExpertSourceTensors& e : layer.experts) {
    for (const auto& [matrix, expected] :
         {std::pair(&e.gate, &first.gate), {&e.up, &first.up}, {&e.down, &first.down}}) {
      if (packed_format(*matrix) != packed_format(*expected)) {
        throw Error(fmt::format(
            "tensor {}: is of another type or scheme than {}, expected the same: all experts of a "
            "layer must be alike",
            matrix->name, expected->name));
      }
    }
  }
  const auto shape = [](const MatrixSource& m) { return packed_shape(packed_format(m), m.n, m.k); };
  return expert_shape(shape(first.gate), shape(first.up), shape(first.down));
}

}  // namespace

std::vector<ExpertShape> expert_shapes(const ModelDescription& description) {
  std::vector<ExpertShape> shapes;
  for (const LayerTensors& layer : description.layers) shapes.push_back(layer_shape(layer));
  return shapes;
}

ExpertFileSource::ExpertFileSource(const ModelDescription& description, int loads)
    : description_(description), shapes_(expert_shapes(description)) {
  for (const LayerTensors& layer : description.layers) {
    for (const ExpertSourceTensors& e : layer.experts) {
      for (const MatrixSource* m : {&e.gate, &e.up, &e.down}) {
        staging_bytes_ = std::max(staging_bytes_, staging_bytes(*m, m->n));
      }
    }
  }
  idle_.assign(loads, std::vector<std::byte>(static_cast<size_t>(staging_bytes_)));
}

int64_t ExpertFileSource::load(ExpertId id, std::span<std::byte> slot) {
  std::vector<std::byte> staging;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      staging = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  staging.resize(static_cast<size_t>(staging_bytes_));
  const ExpertSourceTensors& expert = description_.layers[id.layer].experts[id.expert];
  const ExpertShape& shape = shapes_[id.layer];
  HOTSET_CHECK(std::ssize(slot) == shape.bytes, "a slot of another size class");
  pack_matrix(expert.gate, shape.gate, staging.data(), slot.data() + shape.gate_at);
  pack_matrix(expert.up, shape.up, staging.data(), slot.data() + shape.up_at);
  pack_matrix(expert.down, shape.down, staging.data(), slot.data() + shape.down_at);
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(staging));
  return expert.gate.bytes() + expert.up.bytes() + expert.down.bytes();
}

void ExpertFileSource::expect(ExpertId id) {
  const ExpertSourceTensors& expert = description_.layers[id.layer].experts[id.expert];
  for (const MatrixSource* matrix : {&expert.gate, &expert.up, &expert.down}) {
    expect_rows(*matrix, 0, matrix->n);
  }
}

}  // namespace hotset
