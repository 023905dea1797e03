#include "runtime/sequence_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "kernels/check.h"

namespace hotset {

namespace {
int64_t blocks_for(int64_t positions) {
  return (positions + kKvBlockPositions - 1) / kKvBlockPositions;
}
}  // namespace

SequencePool::SequencePool(std::unique_ptr<SequenceMemory> memory, const ModelConfig& c,
                           int64_t attention_layers, int64_t delta_layers, int32_t sequences,
                           int64_t positions_each, bool kv_f16)
    : memory_(std::move(memory)),
      kv_heads_(c.num_key_value_heads),
      plane_bytes_(kKvBlockPositions * c.head_dim * (kv_f16 ? 2 : 4)),
      block_bytes_(attention_layers * 2 * kv_heads_ * plane_bytes_),
      channels_(c.conv_channels()),
      columns_(c.linear_conv_kernel_dim - 1),
      state_floats_(c.linear_num_value_heads * c.linear_key_head_dim * c.linear_value_head_dim),
      layer_floats_(state_floats_ + columns_ * channels_),
      sequence_floats_(delta_layers * layer_floats_),
      has_recurrent_(delta_layers > 0),
      sequences_(sequences),
      blocks_each_(blocks_for(positions_each)) {
  kv_ = memory_->reserve(kv_bytes(), "keys and values");
  recurrent_ = reinterpret_cast<float*>(memory_->allocate(recurrent_bytes(), "recurrent state"));
  const auto blocks = static_cast<int32_t>(sequences * blocks_each_);
  for (int32_t b = blocks - 1; b >= 0; --b) free_blocks_.push_back(b);
  for (int32_t s = sequences - 1; s >= 0; --s) free_states_.push_back(s);
}

SequenceState SequencePool::open() {
  if (open_count_ == sequences_) {
    throw Error(fmt::format("all {} sessions are in use", sequences_));
  }
  ++open_count_;
  SequenceState sequence;
  sequence.kv_blocks.reserve(static_cast<size_t>(blocks_each_));
  sequence.recurrent = free_states_.back();
  free_states_.pop_back();
  clear_recurrent(sequence);
  return sequence;
}

void SequencePool::close(SequenceState& sequence) {
  resize(sequence, 0);
  free_states_.push_back(sequence.recurrent);
  sequence.recurrent = -1;
  --open_count_;
}

void SequencePool::resize(SequenceState& sequence, int64_t positions) {
  const int64_t blocks = blocks_for(positions);
  while (std::ssize(sequence.kv_blocks) > blocks) {
    const int32_t block = sequence.kv_blocks.back();
    const auto at =
        std::upper_bound(free_blocks_.begin(), free_blocks_.end(), block, std::greater<>());
    free_blocks_.insert(at, block);
    sequence.kv_blocks.pop_back();
  }
  while (std::ssize(sequence.kv_blocks) < blocks) {
    HOTSET_CHECK(!free_blocks_.empty(), "KV blocks ran out: a session grew beyond its context");
    const int32_t block = free_blocks_.back();  // used before, or the first that never was
    if (block >= blocks_grown_) {
      memory_->grow((block + 1) * block_bytes_);
      blocks_grown_ = block + 1;
    }
    sequence.kv_blocks.push_back(block);
    free_blocks_.pop_back();
  }
}

int64_t SequencePool::drop_unused_end() {
  auto free = std::lower_bound(free_blocks_.begin(), free_blocks_.end(), blocks_grown_ - 1,
                               std::greater<>());
  for (; free != free_blocks_.end() && *free == blocks_grown_ - 1; ++free) --blocks_grown_;
  return blocks_grown_ * block_bytes_;
}

void SequencePool::clear_recurrent(SequenceState& sequence) {
  if (!has_recurrent_) return;
  memory_->clear(reinterpret_cast<std::byte*>(state(sequence, 0)), sequence_floats_ * 4);
}

Snapshot SequencePool::save(const SequenceState& sequence, int64_t positions) const {
  Snapshot snapshot;
  snapshot.kv.resize(static_cast<size_t>(blocks_for(positions) * block_bytes_));
  for (int64_t b = 0; b < blocks_for(positions); ++b) {
    memory_->read(snapshot.kv.data() + b * block_bytes_, block(sequence.kv_blocks[b]),
                  block_bytes_);
  }
  if (has_recurrent_) {
    snapshot.recurrent.resize(static_cast<size_t>(sequence_floats_) * sizeof(float));
    memory_->read(snapshot.recurrent.data(), reinterpret_cast<const std::byte*>(state(sequence, 0)),
                  sequence_floats_ * 4);
  }
  return snapshot;
}

void SequencePool::load(SequenceState& sequence, const Snapshot& snapshot) {
  resize(sequence, std::ssize(snapshot.tokens));
  for (size_t b = 0; b < sequence.kv_blocks.size(); ++b) {
    memory_->write(block(sequence.kv_blocks[b]), snapshot.kv.data() + b * block_bytes_,
                   block_bytes_);
  }
  if (has_recurrent_) {
    memory_->write(reinterpret_cast<std::byte*>(state(sequence, 0)), snapshot.recurrent.data(),
                   std::ssize(snapshot.recurrent));
  }
}

std::vector<float> SequencePool::recurrent_state(const SequenceState& s, int64_t layer) const {
  std::vector<float> shown(static_cast<size_t>(state_floats_));
  memory_->read(shown.data(), reinterpret_cast<const std::byte*>(state(s, layer)),
                state_floats_ * 4);
  return shown;
}

std::vector<float> SequencePool::conv_state(const SequenceState& s, int64_t layer) const {
  std::vector<float> kept(static_cast<size_t>(channels_ * columns_)), shown(kept.size());
  memory_->read(kept.data(), reinterpret_cast<const std::byte*>(conv(s, layer)),
                std::ssize(kept) * 4);
  for (int64_t c = 0; c < channels_; ++c) {
    for (int64_t j = 0; j < columns_; ++j) shown[c * columns_ + j] = kept[j * channels_ + c];
  }
  return shown;
}

}  // namespace hotset
