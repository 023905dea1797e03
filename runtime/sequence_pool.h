// Memory of sequences: KV in blocks of 256 positions, and recurrent state, from pools that a device
// has.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/memory.h"
#include "runtime/session.h"
#include "runtime/weights/model_description.h"

namespace hotset {

// Where sequences' bytes lie: a device's memory, which the host cannot always address.
class SequenceMemory {
 public:
  virtual ~SequenceMemory() = default;
  virtual std::byte* allocate(int64_t bytes, const char* what) = 0;
  // Addresses for the keys and values of all positions; grow() makes memory of the first so many
  // bytes, more than before or than drop_unused_end() has said, and throws Error if there is none.
  virtual std::byte* reserve(int64_t bytes, const char* what) = 0;
  virtual void grow(int64_t bytes) = 0;
  virtual void clear(std::byte* at, int64_t bytes) = 0;
  virtual void read(void* to, const std::byte* from, int64_t bytes) = 0;
  virtual void write(std::byte* to, const void* from, int64_t bytes) = 0;
};

class SequencePool {
 public:
  SequencePool(std::unique_ptr<SequenceMemory> memory, const ModelConfig& config,
               int64_t attention_layers, int64_t delta_layers, int32_t sequences,
               int64_t positions_each, bool kv_f16);

  SequenceState open();  // throws Error if all are in use
  void close(SequenceState& sequence);
  // Blocks for `positions` positions in all: grows, or gives back.
  void resize(SequenceState& sequence, int64_t positions);
  // What lies behind the last block in use is not memory any more from here on: it will be asked
  // for again. Returns the bytes that are left. A free block before one in use stays.
  int64_t drop_unused_end();
  void clear_recurrent(SequenceState& sequence);
  // Without the tokens, which the pool does not know; load() wants them.
  Snapshot save(const SequenceState& sequence, int64_t positions) const;
  void load(SequenceState& sequence, const Snapshot& snapshot);

  // Keys (or values) of one KV head in one block: [256][head_dim], f16 or f32.
  std::byte* kv(int32_t block, int64_t layer, bool values, int64_t head) const {
    return this->block(block) + ((layer * 2 + (values ? 1 : 0)) * kv_heads_ + head) * plane_bytes_;
  }
  // In a block: [attention layers][2: keys, values][kv heads][256][head_dim]
  std::byte* block(int32_t block) const { return kv_ + block * block_bytes_; }
  float* state(const SequenceState& s, int64_t layer) const {  // [value heads][dk][dv]
    return recurrent_ + s.recurrent * sequence_floats_ + layer * layer_floats_;
  }
  float* conv(const SequenceState& s, int64_t layer) const {  // [width - 1][channels], oldest first
    return state(s, layer) + state_floats_;
  }
  int64_t state_floats() const { return state_floats_; }
  int64_t sequence_floats() const {
    return sequence_floats_;
  }  // from one's state to the next one's
  int32_t sequences() const { return sequences_; }
  int64_t blocks_each() const { return blocks_each_; }
  int64_t kv_bytes() const { return sequences_ * blocks_each_ * block_bytes_; }
  int64_t block_bytes() const { return block_bytes_; }
  int64_t recurrent_bytes() const {
    return sequences_ * sequence_floats_ * static_cast<int64_t>(sizeof(float));
  }
  // Copies for the host, of layer `layer` of those with a state: [value heads][dk][dv], and
  // [channels][width - 1] like the reference's.
  std::vector<float> recurrent_state(const SequenceState& s, int64_t layer) const;
  std::vector<float> conv_state(const SequenceState& s, int64_t layer) const;

 private:
  const std::unique_ptr<SequenceMemory> memory_;
  int64_t kv_heads_, plane_bytes_, block_bytes_;
  int64_t channels_, columns_;  // of the convolution, and how many inputs it remembers
  int64_t state_floats_, layer_floats_, sequence_floats_;
  bool has_recurrent_;
  int32_t sequences_;
  int64_t blocks_each_;
  int32_t open_count_ = 0;
  std::byte* kv_ = nullptr;
  float* recurrent_ = nullptr;
  int32_t blocks_grown_ = 0;          // the first so many are memory
  std::vector<int32_t> free_blocks_;  // falling: the first of them is used first
  std::vector<int32_t> free_states_;
};

}  // namespace hotset
