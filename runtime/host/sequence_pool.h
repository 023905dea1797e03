// Memory of sequences on the host: KV in blocks of 256 positions, and recurrent state, from pools
// that are reserved at start and committed as they grow.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/memory.h"
#include "runtime/session.h"
#include "runtime/weights/model_description.h"

namespace hotset {

class SequencePool {
 public:
  SequencePool(const ModelConfig& config, int64_t attention_layers, int64_t delta_layers,
               int32_t sequences, int64_t positions_each, bool kv_f16);

  SequenceState open();
  void close(SequenceState& sequence);
  void resize(SequenceState& sequence, int64_t positions);
  void clear_recurrent(SequenceState& sequence);
  Snapshot save(const SequenceState& sequence, int64_t positions) const;
  void load(SequenceState& sequence, const Snapshot& snapshot);

  // Keys (or values) of one KV head in one block: [256][head_dim], f16 or f32.
  std::byte* kv(int32_t block, int64_t layer, bool values, int64_t head) const {
    return kv_.data() + block * block_bytes_ +
           ((layer * 2 + (values ? 1 : 0)) * kv_heads_ + head) * plane_bytes_;
  }
  float* state(const SequenceState& s, int64_t layer) const {  // [value heads][dk][dv]
    return recurrent_.as<float>() + s.recurrent * sequence_floats_ + layer * layer_floats_;
  }
  float* conv(const SequenceState& s, int64_t layer) const {  // [width - 1][channels], oldest first
    return state(s, layer) + state_floats_;
  }
  int64_t state_floats() const { return state_floats_; }
  int64_t kv_bytes() const { return kv_.bytes(); }
  int64_t recurrent_bytes() const { return recurrent_.bytes(); }

 private:
  int64_t kv_heads_, plane_bytes_, block_bytes_;
  int64_t state_floats_, layer_floats_, sequence_floats_;
  bool has_recurrent_;
  int32_t sequences_;
  int64_t blocks_each_;
  int32_t open_count_ = 0;
  Memory kv_, recurrent_;
  std::vector<int32_t> free_blocks_, free_states_;
};

}  // namespace hotset
