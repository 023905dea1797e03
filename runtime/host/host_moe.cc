// Router picks, routed experts and their combination on the CPU (Qwen3NextSparseMoeBlock of
// modeling_qwen3_next.py).
#include <algorithm>

#include "runtime/host/host_device.h"

namespace hotset {

void HostDevice::route(const Routing& routing, Rows logits) {
  pool_.run(routing.rows, [&](int64_t r, int thread) {
    int32_t* picked = routing.experts + r * routing.k;
    float* weights = routing.weights + r * routing.k;
    const float* l = logits.row(r);
    // Insertion into the k best so far; a strict comparison leaves a tie to the lower index.
    int64_t count = 0;
    for (int64_t e = 0; e < logits.width; ++e) {
      if (count == routing.k && !(l[e] > l[picked[count - 1]])) continue;
      int64_t at = count < routing.k ? count++ : count - 1;
      for (; at > 0 && l[e] > l[picked[at - 1]]; --at) picked[at] = picked[at - 1];
      picked[at] = static_cast<int32_t>(e);
    }
    float* p = thread_scratch(thread);
    kernels_.softmax(p, l, logits.width);
    float sum = 0.0f;
    for (int64_t i = 0; i < routing.k; ++i) {
      weights[i] = p[picked[i]];
      sum += weights[i];
    }
    if (!config_.norm_topk_prob) return;
    for (int64_t i = 0; i < routing.k; ++i) weights[i] /= sum;
  });
}

void HostDevice::set_picks(const Routing& routing, const int32_t* picks, Rows logits) {
  std::copy_n(picks, routing.rows * routing.k, routing.experts);
  pool_.run(routing.rows, [&](int64_t r, int thread) {
    const int32_t* picked = routing.experts + r * routing.k;
    float* picked_logits = thread_scratch(thread);
    for (int64_t i = 0; i < routing.k; ++i) picked_logits[i] = logits.row(r)[picked[i]];
    kernels_.softmax(routing.weights + r * routing.k, picked_logits, routing.k);
  });
}

void HostDevice::begin_experts(int32_t layer, const Routing& routing, const Activations& in) {
  experts_in_ = in;
  experts_.begin(layer, routing, kind_, tokens_);
}

void HostDevice::combine(Rows x, const Routing& routing, Rows shared, Rows shared_gate) {
  pool_.run(x.rows, [&](int64_t r, int thread) {
    float* y = combined_.row(thread);
    std::fill(y, y + x.width, 0.0f);
    for (int64_t i = 0; i < routing.k; ++i) {
      kernels_.add_scaled(y, routing.weights[r * routing.k + i], experts_.output(r, i), x.width);
    }
    if (shared.data != nullptr) {
      const float minus_gate = -shared_gate.row(r)[0];
      float power;
      kernels_.exp(&power, &minus_gate, 1);
      kernels_.add_scaled(y, 1.0f / (1.0f + power), shared.row(r), x.width);
    }
    kernels_.add(x.row(r), y, x.width);
  });
}

}  // namespace hotset
