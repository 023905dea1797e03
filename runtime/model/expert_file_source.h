// Experts straight from the model file: an expert's gate, up and down are read with pread and
// packed into the slot.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "cache/expert_id.h"
#include "kernels/packed.h"
#include "runtime/weights/model_description.h"

namespace hotset {

// Packed shapes of the experts of each layer. Throws Error where a layer's differ.
std::vector<ExpertShape> expert_shapes(const ModelDescription& description);

class ExpertFileSource : public ExpertSource {
 public:
  // `loads`: how many load() calls may be under way at once without allocating.
  ExpertFileSource(const ModelDescription& description, int loads);

  int32_t layer_count() const override { return static_cast<int32_t>(description_.layers.size()); }
  int32_t experts_per_layer() const override {
    return static_cast<int32_t>(description_.config.num_experts);
  }
  int64_t expert_bytes(int32_t layer) const override { return shapes_[layer].bytes; }
  int64_t load(ExpertId id, std::span<std::byte> slot) override;
  void expect(ExpertId id) override;

  const std::vector<ExpertShape>& shapes() const { return shapes_; }  // by layer

 private:
  const ModelDescription& description_;
  std::vector<ExpertShape> shapes_;
  int64_t staging_bytes_ = 0;  // the largest matrix in source form

  // Read buffers, one for each load under way. All exist from the start: which thread happens to
  // load beside which is chance, and a token must not allocate.
  std::mutex mutex_;
  std::vector<std::vector<std::byte>> idle_;
};

}  // namespace hotset
