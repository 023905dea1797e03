// Which matrix and vector of the dense part lies where in Weights::memory. The image in memory and
// that of a sidecar are the same bytes; kPackedVersion (kernels/packed.h) counts changes of this
// order, too.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "runtime/model/weights.h"

namespace hotset {

struct DensePlacement {
  const MatrixSource* matrix = nullptr;
  PackedShape shape;
  PackedMatrix* to = nullptr;
  std::vector<float> vector;  // or this
  const float** vector_to = nullptr;
  int64_t at = 0;  // bytes from the image's start, a multiple of 64
};

class DenseLayout {
 public:
  // Whether every value of the layout's `index`th matrix is exact in bf16, and so stored as that.
  // To see it takes a scan of a float matrix; a sidecar has it written down.
  using ExactInBf16 = std::function<bool(const MatrixSource&, size_t index)>;

  // Lays out the model for `weights`, which must stay where it is until place().
  DenseLayout(const ModelDescription& description, const ExactInBf16& exact_in_bf16,
              Weights& weights);

  // Points all of `weights` into its memory and copies the vectors there.
  void place(Weights& weights) const;

  const std::vector<DensePlacement>& placements() const { return placements_; }
  int64_t source_bytes() const { return source_bytes_; }  // of the matrices

 private:
  void layer(const ModelConfig& config, const LayerTensors& tensors, LayerWeights& layer);
  void moe(const LayerTensors& tensors, MoeWeights& w);
  void matrix(const MatrixSource& source, PackedMatrix* to, bool as_float = false);
  void vector(std::vector<float> values, const float** to);
  int64_t reserve(int64_t bytes);

  const ExactInBf16 exact_in_bf16_;
  Weights& weights_;
  std::vector<DensePlacement> placements_;
  int64_t bytes_ = 0, source_bytes_ = 0, attention_layers_ = 0, delta_layers_ = 0;
};

}  // namespace hotset
