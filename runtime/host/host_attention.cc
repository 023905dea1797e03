// Full attention on the CPU (Qwen3NextAttention of modeling_qwen3_next.py).
#include <cmath>
#include <cstring>

#include "runtime/host/host_device.h"

namespace hotset {

// Row r of a run: norms and rotates its queries (into attention_q_, scaled) and keys, and stores
// keys and values in the sequence.
void HostDevice::rotate_and_store(const AttentionWeights& w, Rows q, Rows k, Rows v,
                                  const RowRun& run, int64_t r) {
  const int64_t dim = config_.head_dim, half = config_.rotary_dim / 2;
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  const int64_t row = run.first_row + r, position = run.position + r;
  const float* cos = rope_.cos.data() + position * half;
  const float* sin = rope_.sin.data() + position * half;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  const int64_t q_stride = config_.attention_gate ? 2 * dim : dim;
  for (int64_t h = 0; h < config_.num_attention_heads; ++h) {
    float* head = attention_q_.row(row) + h * dim;
    kernels_.rms_norm(head, q.row(row) + h * q_stride, w.q_norm, dim, eps);
    kernels_.rope(head, cos, sin, half);
    for (int64_t d = 0; d < dim; ++d) head[d] *= scale;
  }
  const int32_t block = run.sequence->kv_blocks[position / kKvBlockPositions];
  const int64_t at = position % kKvBlockPositions * dim;
  for (int64_t h = 0; h < config_.num_key_value_heads; ++h) {
    float* head = k.row(row) + h * dim;
    kernels_.rms_norm(head, head, w.k_norm, dim, eps);
    kernels_.rope(head, cos, sin, half);
    std::byte* keys = sequences_.kv(block, w.index, false, h);
    std::byte* values = sequences_.kv(block, w.index, true, h);
    if (kv_f16_) {
      kernels_.to_half(reinterpret_cast<uint16_t*>(keys) + at, head, dim);
      kernels_.to_half(reinterpret_cast<uint16_t*>(values) + at, v.row(row) + h * dim, dim);
    } else {
      std::memcpy(reinterpret_cast<float*>(keys) + at, head, static_cast<size_t>(dim) * 4);
      std::memcpy(reinterpret_cast<float*>(values) + at, v.row(row) + h * dim,
                  static_cast<size_t>(dim) * 4);
    }
  }
}

void HostDevice::attend(const Activations& out, const AttentionWeights& w, Rows q, Rows k, Rows v,
                        std::span<const RowRun> runs) {
  const int64_t dim = config_.head_dim, kv_heads = config_.num_key_value_heads;
  const int64_t group = config_.num_attention_heads / kv_heads;
  for (const RowRun& run : runs) {
    pool_.run(run.rows, [&](int64_t r, int) { rotate_and_store(w, q, k, v, run, r); });
  }
  for (const RowRun& run : runs) {
    // Later rows see more positions: starting with them leaves the short ones to even out the
    // threads.
    pool_.run(run.rows * kv_heads, [&](int64_t task, int thread) {
      const int64_t r = run.rows - 1 - task / kv_heads, head = task % kv_heads;
      const void** keys = kv_pointers_.data() + thread * 2 * kv_blocks_max_;
      const void** values = keys + kv_blocks_max_;
      const int64_t positions = run.position + r + 1;
      for (int64_t b = 0; b * kKvBlockPositions < positions; ++b) {
        keys[b] = sequences_.kv(run.sequence->kv_blocks[b], w.index, false, head);
        values[b] = sequences_.kv(run.sequence->kv_blocks[b], w.index, true, head);
      }
      AttentionArgs args;
      args.q = attention_q_.row(run.first_row + r) + head * group * dim;
      args.heads = group;
      args.dim = dim;
      args.k_blocks = keys;
      args.v_blocks = values;
      args.positions = positions;
      args.is_f16 = kv_f16_;
      args.out = out.x.row(run.first_row + r) + head * group * dim;
      args.scratch = thread_scratch(thread);
      kernels_.attention(args);
    });
  }
  pool_.run(out.x.rows, [&](int64_t r, int) {
    if (config_.attention_gate) {
      for (int64_t h = 0; h < config_.num_attention_heads; ++h) {
        kernels_.sigmoid_mul(out.x.row(r) + h * dim, q.row(r) + (2 * h + 1) * dim, dim);
      }
    }
    quantise(out, r);
  });
}

}  // namespace hotset
