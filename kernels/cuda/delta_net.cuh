// The gated delta net on the card, with the bits of kernels/cpu/delta_net.cc and of what
// runtime/host/ does around it: every sum runs over its index in rising order.
#pragma once

#include "kernels/cuda/dense_ops.cuh"
#include "kernels/simd/log_one_plus.h"

namespace hotset::HOTSET_ISA {

inline constexpr unsigned kConvThreads = 256, kGateThreads = 128, kChunkThreads = 256;
inline constexpr unsigned kStepColumns = 32;  // of a state, by one block of the recurrence

// Causal depthwise convolution with SiLU of run blockIdx.y, a thread a channel: it alone reads and
// writes that channel's past.
HOTSET_KERNEL conv_kernel(CardDeltaArgs a) {
  const int64_t channels = a.channels(), past = a.width - 1;
  const int64_t c = global_thread();
  if (c >= channels) return;
  const CardRun& run = a.step.runs[blockIdx.y];
  float* state = a.conv_state + run.sequence * a.sequence_stride + c;
  const float* rows = a.qkv + run.first_row * channels + c;
  float* out = a.convolved + run.first_row * channels + c;
  const auto input = [&](int64_t i) {  // of the run's row i, or before it
    return i < 0 ? state[(past + i) * channels] : rows[i * channels];
  };
  for (int64_t r = 0; r < run.rows; ++r) {
    float sum = 0.0f;
    for (int64_t j = 0; j < a.width; ++j) {
      sum = fma(a.conv_weight[j * channels + c], input(r - past + j), sum);
    }
    out[r * channels] = silu_lanes(sum);
  }
  for (int64_t j = 0; j < past; ++j) state[j * channels] = input(run.rows - past + j);
}

// Row blockIdx.x, key head blockIdx.y: x *= factor / |x| of the query (blockIdx.z 0) or the key, in
// place. One warp.
HOTSET_KERNEL key_norm_kernel(CardDeltaArgs a, float query_scale) {
  constexpr float kEps = 1e-6f;  // fixed in the reference, whatever rms_norm_eps is
  float* x =
      a.convolved + blockIdx.x * a.channels() + (blockIdx.z * a.key_heads + blockIdx.y) * a.dk;
  const float norm = square_root(add(sum_of_squares(x, a.dk), kEps));
  const float scale = mul(blockIdx.z == 0 ? query_scale : 1.0f, div(1.0f, norm));
  __syncwarp();  // all have read x
  for (int64_t i = threadIdx.x; i < a.dk; i += kWarp) x[i] = mul(x[i], scale);
}

// Log decay and beta, a thread for each row and value head. The logarithm is in double precision,
// as on the CPU: a few dozen numbers a layer, and in float32 its error would be the decay's over a
// whole context.
HOTSET_KERNEL gates_kernel(CardDeltaArgs a) {
  const int64_t heads = a.value_heads;
  for (int64_t i = global_thread(); i < a.step.rows * heads; i += global_threads()) {
    const int64_t row = i / heads, h = i % heads;
    const float b = a.ba[row * 2 * heads + h];
    const float x = add(a.ba[row * 2 * heads + heads + h], a.dt_bias[h]);
    const auto logarithm = static_cast<float>(log_one_plus(static_cast<double>(exp_one(x))));
    a.gates[row * 2 * heads + h] = mul(a.a[h], x > 20.0f ? x : logarithm);
    a.gates[row * 2 * heads + heads + h] = div(1.0f, add(1.0f, exp_one(-b)));
  }
}

// Where one value head of a run's row lies.
struct DeltaHead {
  const float *q, *k, *v, *gates;
  float *out, *state;
};
HOTSET_DEVICE DeltaHead delta_head(const CardDeltaArgs& a, const CardRun& run, int64_t row,
                                   int64_t head) {
  const float* convolved = a.convolved + row * a.channels();
  const int64_t key_head = head / (a.value_heads / a.key_heads);
  return {convolved + key_head * a.dk,
          convolved + (a.key_heads + key_head) * a.dk,
          convolved + 2 * a.key_heads * a.dk + head * a.dv,
          a.gates + row * 2 * a.value_heads + head,
          a.raw + (row * a.value_heads + head) * a.dv,
          a.state + run.sequence * a.sequence_stride + head * a.dk * a.dv};
}

// One token: run blockIdx.x, head blockIdx.y, kStepColumns columns of its state from blockIdx.z on.
// Each column is one thread's. Bytes: the state once in and once out. Dynamic shared: dk *
// (kStepColumns + 2) floats; what a thread writes of the columns it reads itself.
HOTSET_KERNEL __launch_bounds__(kStepColumns) delta_step_kernel(CardDeltaArgs a) {
  HOTSET_DYNAMIC_SHARED(float, decayed);  // [dk][kStepColumns]
  float* q = decayed + a.dk * kStepColumns;
  float* k = q + a.dk;
  const CardRun& run = a.step.runs[blockIdx.x];
  const DeltaHead h = delta_head(a, run, run.first_row, blockIdx.y);
  for (int64_t i = threadIdx.x; i < a.dk; i += kStepColumns) q[i] = h.q[i], k[i] = h.k[i];
  __syncthreads();
  const int64_t n = static_cast<int64_t>(blockIdx.z) * kStepColumns + threadIdx.x;
  if (n >= a.dv) return;
  const float decay = exp_one(h.gates[0]), beta = h.gates[a.value_heads];
  float read = 0.0f;
#pragma unroll 8
  for (int64_t i = 0; i < a.dk; ++i) {
    const float x = mul(h.state[i * a.dv + n], decay);
    decayed[i * kStepColumns + threadIdx.x] = x;
    read = fma(k[i], x, read);
  }
  const float update = mul(beta, sub(h.v[n], read));
  float out = 0.0f;
#pragma unroll 8
  for (int64_t i = 0; i < a.dk; ++i) {
    const float x = fma(k[i], update, decayed[i * kStepColumns + threadIdx.x]);
    h.state[i * a.dv + n] = x;
    out = fma(q[i], x, out);
  }
  h.out[n] = out;
}

// The same within a prompt, by a block of any size.
HOTSET_DEVICE void one_token(const CardDeltaArgs& a, const DeltaHead& h) {
  const float decay = exp_one(h.gates[0]), beta = h.gates[a.value_heads];
  for (int64_t n = threadIdx.x; n < a.dv; n += blockDim.x) {
    float read = 0.0f, out = 0.0f;
    for (int64_t i = 0; i < a.dk; ++i) {
      const float x = mul(h.state[i * a.dv + n], decay);
      h.state[i * a.dv + n] = x;
      read = fma(h.k[i], x, read);
    }
    const float update = mul(beta, sub(h.v[n], read));
    for (int64_t i = 0; i < a.dk; ++i) {
      const float x = fma(h.k[i], update, h.state[i * a.dv + n]);
      h.state[i * a.dv + n] = x;
      out = fma(h.q[i], x, out);
    }
    h.out[n] = out;
  }
}

// Gates of a chunk in shared memory: G_i, exp(G_i), beta_i and -(beta_i * exp(G_i)).
struct ChunkGates {
  float cumulative[kDeltaChunk], growth[kDeltaChunk], beta[kDeltaChunk], minus[kDeltaChunk];
};

// Matrices of a chunk in a block's scratch.
struct ChunkBuffers {
  float *decay, *scores, *solve;  // [64][64], the lower triangle
  float *k_decayed, *v_new;       // [64][dk], [64][dv]
};

HOTSET_DEVICE ChunkBuffers chunk_buffers(const CardDeltaArgs& a) {
  constexpr int64_t kSquare = kDeltaChunk * kDeltaChunk;
  float* p = a.scratch + blockIdx.x * card_delta_scratch_floats_of_block(a.dk, a.dv);
  return {p, p + kSquare, p + 2 * kSquare, p + 3 * kSquare, p + 3 * kSquare + kDeltaChunk * a.dk};
}

// x . y, rising.
HOTSET_DEVICE float dot(const float* x, const float* y, int64_t n) {
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t d = 0; d < n; ++d) sum = fma(x[d], y[d], sum);
  return sum;
}

// Ends with a barrier, like all that follow.
HOTSET_DEVICE void chunk_gates(const CardDeltaArgs& a, const DeltaHead& h, int64_t tokens,
                               ChunkGates& g) {
  const int64_t stride = 2 * a.value_heads;
  if (threadIdx.x == 0) {
    float total = 0.0f;
    for (int64_t i = 0; i < tokens; ++i) {
      total = add(total, h.gates[i * stride]);
      g.cumulative[i] = total;
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < tokens; i += blockDim.x) {
    g.growth[i] = exp_one(g.cumulative[i]);
    g.beta[i] = h.gates[i * stride + a.value_heads];
    g.minus[i] = -mul(g.beta[i], g.growth[i]);
  }
  __syncthreads();
}

// decay[i][j] = exp(G_i - G_j), and A[i][j] = -(beta_i k_i . k_j) decay for j < i.
HOTSET_DEVICE void chunk_keys(const CardDeltaArgs& a, const DeltaHead& h, int64_t tokens,
                              const ChunkGates& g, const ChunkBuffers& b) {
  for (int64_t t = threadIdx.x; t < tokens * kDeltaChunk; t += blockDim.x) {
    const int64_t i = t / kDeltaChunk, j = t % kDeltaChunk;
    if (j > i) continue;
    const float decay = exp_lanes(sub(g.cumulative[i], g.cumulative[j]));
    b.decay[t] = decay;
    if (j == i) continue;
    const float product = dot(h.k + i * a.channels(), h.k + j * a.channels(), a.dk);
    b.scores[t] = mul(-mul(g.beta[i], product), decay);
  }
  __syncthreads();
}

// T = (I - A)^-1: a column is one thread's.
HOTSET_DEVICE void chunk_solve(int64_t tokens, const ChunkBuffers& b) {
  for (int64_t n = threadIdx.x; n < tokens; n += blockDim.x) {
    b.solve[n * kDeltaChunk + n] = 1.0f;
    for (int64_t i = n + 1; i < tokens; ++i) {
      float sum = 0.0f;
      for (int64_t j = n; j < i; ++j) {
        sum = fma(b.scores[i * kDeltaChunk + j], b.solve[j * kDeltaChunk + n], sum);
      }
      b.solve[i * kDeltaChunk + n] = sum;
    }
  }
  __syncthreads();
}

// V_new = T (beta V) - (T (beta K exp(G))) S
HOTSET_DEVICE void chunk_values(const CardDeltaArgs& a, const DeltaHead& h, int64_t tokens,
                                const ChunkGates& g, const ChunkBuffers& b) {
  const int64_t stride = a.channels();
  for (int64_t t = threadIdx.x; t < tokens * a.dk; t += blockDim.x) {
    const int64_t i = t / a.dk, d = t % a.dk;
    float sum = 0.0f;
    for (int64_t j = 0; j <= i; ++j) {
      sum = fma(b.solve[i * kDeltaChunk + j], mul(g.minus[j], h.k[j * stride + d]), sum);
    }
    b.k_decayed[t] = sum;
  }
  __syncthreads();
  for (int64_t t = threadIdx.x; t < tokens * a.dv; t += blockDim.x) {
    const int64_t i = t / a.dv, n = t % a.dv;
    float sum = 0.0f;
    for (int64_t j = 0; j <= i; ++j) {
      sum = fma(b.solve[i * kDeltaChunk + j], mul(g.beta[j], h.v[j * stride + n]), sum);
    }
#pragma unroll 4
    for (int64_t d = 0; d < a.dk; ++d) {
      sum = fma(b.k_decayed[i * a.dk + d], h.state[d * a.dv + n], sum);
    }
    b.v_new[t] = sum;
  }
  __syncthreads();
}

// O = (Q exp(G)) S + lower(Q K^T . decay) V_new
HOTSET_DEVICE void chunk_out(const CardDeltaArgs& a, const DeltaHead& h, int64_t tokens,
                             const ChunkGates& g, const ChunkBuffers& b) {
  const int64_t stride = a.channels();
  for (int64_t t = threadIdx.x; t < tokens * kDeltaChunk; t += blockDim.x) {
    const int64_t i = t / kDeltaChunk, j = t % kDeltaChunk;
    if (j <= i) b.scores[t] = mul(dot(h.q + i * stride, h.k + j * stride, a.dk), b.decay[t]);
  }
  __syncthreads();
  for (int64_t t = threadIdx.x; t < tokens * a.dv; t += blockDim.x) {
    const int64_t i = t / a.dv, n = t % a.dv;
    float sum = 0.0f;
#pragma unroll 4
    for (int64_t d = 0; d < a.dk; ++d) {
      sum = fma(mul(g.growth[i], h.q[i * stride + d]), h.state[d * a.dv + n], sum);
    }
    for (int64_t j = 0; j <= i; ++j) {
      sum = fma(b.scores[i * kDeltaChunk + j], b.v_new[j * a.dv + n], sum);
    }
    h.out[i * a.value_heads * a.dv + n] = sum;
  }
  __syncthreads();
}

// S = exp(G_last) S + (K exp(G_last - G))^T V_new
HOTSET_DEVICE void chunk_state(const CardDeltaArgs& a, const DeltaHead& h, int64_t tokens,
                               const ChunkGates& g, const ChunkBuffers& b) {
  const float* last = b.decay + (tokens - 1) * kDeltaChunk;
  for (int64_t t = threadIdx.x; t < a.dk * a.dv; t += blockDim.x) {
    const int64_t d = t / a.dv, n = t % a.dv;
    float sum = mul(g.growth[tokens - 1], h.state[t]);
    for (int64_t j = 0; j < tokens; ++j) {
      sum = fma(mul(h.k[j * a.channels() + d], last[j]), b.v_new[j * a.dv + n], sum);
    }
    h.state[t] = sum;
  }
  __syncthreads();
}

// Prompts: each block goes through runs' heads, and each of those through its chunks, which end at
// multiples of 64 positions; a chunk of one token is the recurrence's.
HOTSET_KERNEL __launch_bounds__(kChunkThreads) delta_chunks_kernel(CardDeltaArgs a) {
  HOTSET_SHARED(ChunkGates, gates, 1);
  const ChunkBuffers buffers = chunk_buffers(a);
  for (int64_t task = blockIdx.x; task < a.step.run_count * a.value_heads; task += gridDim.x) {
    const CardRun& run = a.step.runs[task / a.value_heads];
    for (int64_t r = 0; r < run.rows;) {
      const int64_t to_border = kDeltaChunk - (run.position + r) % kDeltaChunk;
      const int64_t tokens = run.rows - r < to_border ? run.rows - r : to_border;
      const DeltaHead h = delta_head(a, run, run.first_row + r, task % a.value_heads);
      if (tokens == 1) {
        one_token(a, h);
        __syncthreads();
      } else {
        chunk_gates(a, h, tokens, *gates);
        chunk_keys(a, h, tokens, *gates, buffers);
        chunk_solve(tokens, buffers);
        chunk_values(a, h, tokens, *gates, buffers);
        chunk_out(a, h, tokens, *gates, buffers);
        chunk_state(a, h, tokens, *gates, buffers);
      }
      r += tokens;
    }
  }
}

// out = SiLU(z) * RMSNorm(raw) of row blockIdx.x, value head blockIdx.y. One warp.
HOTSET_KERNEL gated_norm_kernel(CardDeltaArgs a) {
  const int64_t at = (blockIdx.x * a.value_heads + blockIdx.y) * a.dv;
  const float scale = rms_scale(a.raw + at, a.dv, a.eps);
  for (int64_t i = threadIdx.x; i < a.dv; i += kWarp) {
    const float normed = mul(mul(a.raw[at + i], scale), a.norm[i]);
    a.out[at + i] = mul(silu_lanes(a.z[at + i]), normed);
  }
}

}  // namespace hotset::HOTSET_ISA
