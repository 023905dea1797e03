// The gated delta net on the CPU (Qwen3NextGatedDeltaNet of modeling_qwen3_next.py). One task is a
// key head with its value heads over all rows of a run: convolution, norms, recurrence and gated
// norm need nothing from other heads, so a layer costs two barriers.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/simd/log_one_plus.h"
#include "runtime/host/host_device.h"

namespace hotset {

namespace {

constexpr int64_t kWidthMax = 8;  // of the convolution

}  // namespace

void HostDevice::convolve(const DeltaNetWeights& w, Rows qkv, const RowRun& run,
                          int64_t first_channel, int64_t channels) {
  const int64_t width = config_.linear_conv_kernel_dim, past = width - 1;
  float* state = sequences_.conv(*run.sequence, w.index);
  const float* window[kWidthMax];
  const int64_t stride = qkv.width;
  for (int64_t r = 0; r < run.rows; ++r) {
    for (int64_t j = 0; j < width; ++j) {
      const int64_t from = r - past + j;
      window[j] = (from < 0 ? state + (past + from) * stride : qkv.row(run.first_row + from)) +
                  first_channel;
    }
    kernels_.conv(convolved_.row(run.first_row + r) + first_channel, w.conv + first_channel, stride,
                  window, channels, width);
  }
  for (int64_t j = 0; j < past; ++j) {  // the last `past` inputs, oldest first
    const int64_t from = run.rows - past + j;
    const float* source = from < 0 ? state + (past + from) * stride : qkv.row(run.first_row + from);
    std::memmove(state + j * stride + first_channel, source + first_channel,
                 static_cast<size_t>(channels) * sizeof(float));
  }
}

void HostDevice::delta_heads(const DeltaNetWeights& w, Rows qkv, Rows ba, Rows out,
                             const RowRun& run, int64_t key_head, float* scratch) {
  const ModelConfig& c = config_;
  const int64_t dk = c.linear_key_head_dim, dv = c.linear_value_head_dim;
  const int64_t value_heads = c.linear_num_value_heads;
  const int64_t per_key = value_heads / c.linear_num_key_heads;
  const int64_t q_at = key_head * dk, k_at = c.linear_key_dim() + q_at;
  const int64_t v_at = 2 * c.linear_key_dim() + key_head * per_key * dv;
  convolve(w, qkv, run, q_at, dk);
  convolve(w, qkv, run, k_at, dk);
  convolve(w, qkv, run, v_at, per_key * dv);

  const auto q_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dk)));
  for (int64_t r = run.first_row; r < run.first_row + run.rows; ++r) {
    constexpr float kEps = 1e-6f;  // fixed in the reference, whatever rms_norm_eps is
    kernels_.l2_norm(convolved_.row(r) + q_at, dk, kEps, q_scale);
    kernels_.l2_norm(convolved_.row(r) + k_at, dk, kEps, 1.0f);
  }
  for (int64_t h = key_head * per_key; h < (key_head + 1) * per_key; ++h) {
    for (int64_t r = run.first_row; r < run.first_row + run.rows; ++r) {
      const float b = ba.row(r)[h], a = ba.row(r)[value_heads + h] + w.dt_bias[h];
      const float inputs[2] = {-b, a};
      float powers[2];
      kernels_.exp(powers, inputs, 2);
      const float softplus = a > 20.0f ? a : static_cast<float>(log_one_plus(powers[1]));
      delta_gates_.row(r)[h] = w.a[h] * softplus;
      delta_gates_.row(r)[value_heads + h] = 1.0f / (1.0f + powers[0]);
    }
    for (int64_t r = 0; r < run.rows;) {
      const int64_t to_border = kDeltaChunk - (run.position + r) % kDeltaChunk;
      const int64_t row = run.first_row + r;
      DeltaArgs args;
      args.tokens = std::min(run.rows - r, to_border);
      args.dk = dk;
      args.dv = dv;
      args.q = convolved_.row(row) + q_at;
      args.k = convolved_.row(row) + k_at;
      args.v = convolved_.row(row) + v_at + (h - key_head * per_key) * dv;
      args.q_stride = args.k_stride = args.v_stride = convolved_.width;
      args.g = delta_gates_.row(row) + h;
      args.beta = delta_gates_.row(row) + value_heads + h;
      args.gate_stride = delta_gates_.width;
      args.state = sequences_.state(*run.sequence, w.index) + h * dk * dv;
      args.out = out.row(row) + h * dv;
      args.out_stride = out.width;
      args.scratch = scratch;
      kernels_.delta(args);
      r += args.tokens;
    }
  }
}

void HostDevice::delta_net(const Activations& out, const DeltaNetWeights& w, Rows qkv, Rows z,
                           Rows ba, std::span<const RowRun> runs) {
  const int64_t key_heads = config_.linear_num_key_heads, dv = config_.linear_value_head_dim;
  HOTSET_CHECK(config_.linear_conv_kernel_dim <= kWidthMax, "convolution too wide");
  const Rows raw{attention_out_.data, out.x.rows, config_.linear_value_dim()};
  pool_.run(std::ssize(runs) * key_heads, [&](int64_t task, int thread) {
    delta_heads(w, qkv, ba, raw, runs[task / key_heads], task % key_heads, thread_scratch(thread));
  });
  pool_.run(out.x.rows, [&](int64_t r, int) {
    const auto eps = static_cast<float>(config_.rms_norm_eps);
    for (int64_t h = 0; h < config_.linear_num_value_heads; ++h) {
      float* head = out.x.row(r) + h * dv;
      kernels_.rms_norm(head, raw.row(r) + h * dv, w.norm, dv, eps);
      kernels_.silu_mul(head, z.row(r) + h * dv, head, dv);
    }
    quantise(out, r);
  });
}

}  // namespace hotset
