// Elementwise float kernels, norms and softmax: written once over sixteen lanes
// (kernels/simd/lanes.h).
#include "kernels/cpu/functions.h"
#include "kernels/simd/float_math.h"

namespace hotset::HOTSET_ISA {

namespace {

float sum_of_squares(const float* x, int64_t n) {
  F acc = zero();
  for_lanes(n, [&](int64_t i, int64_t m) {
    const F v = load_some(x + i, m);
    acc = fma(v, v, acc);
  });
  return fold(acc);
}

}  // namespace

void rms_norm(float* y, const float* x, const float* weight, int64_t n, float eps) {
  const float mean = sum_of_squares(x, n) / static_cast<float>(n);
  const F scale = set(1.0f / __builtin_sqrtf(mean + eps));
  for_lanes(n, [&](int64_t i, int64_t m) {
    store_some(y + i, mul(mul(load_some(x + i, m), scale), load_some(weight + i, m)), m);
  });
}

void l2_norm(float* x, int64_t n, float eps, float factor) {
  const F scale = set(factor * (1.0f / __builtin_sqrtf(sum_of_squares(x, n) + eps)));
  for_lanes(n,
            [&](int64_t i, int64_t m) { store_some(x + i, mul(load_some(x + i, m), scale), m); });
}

void silu_mul(float* out, const float* gate, const float* up, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t m) {
    store_some(out + i, mul(silu_lanes(load_some(gate + i, m)), load_some(up + i, m)), m);
  });
}

void sigmoid_mul(float* x, const float* gate, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t m) {
    store_some(x + i, mul(load_some(x + i, m), sigmoid_lanes(load_some(gate + i, m))), m);
  });
}

void exp(float* y, const float* x, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t m) { store_some(y + i, exp_lanes(load_some(x + i, m)), m); });
}

void add(float* y, const float* x, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t m) {
    store_some(y + i, add(load_some(y + i, m), load_some(x + i, m)), m);
  });
}

void add_scaled(float* y, float w, const float* x, int64_t n) {
  const F weight = set(w);
  for_lanes(n, [&](int64_t i, int64_t m) {
    store_some(y + i, fma(weight, load_some(x + i, m), load_some(y + i, m)), m);
  });
}

void softmax(float* p, const float* logits, int64_t n) {
  float largest = logits[0];
  for (int64_t i = 1; i < n; ++i) largest = logits[i] > largest ? logits[i] : largest;
  F sum = zero();
  for_lanes(n, [&](int64_t i, int64_t m) {
    store_some(p + i, exp_lanes(sub(load_some(logits + i, m), set(largest))), m);
    sum = add(sum, load_some(p + i, m));
  });
  const F total = set(fold(sum));
  for_lanes(n,
            [&](int64_t i, int64_t m) { store_some(p + i, div(load_some(p + i, m), total), m); });
}

void rope(float* head, const float* cos, const float* sin, int64_t half) {
  for_lanes(half, [&](int64_t i, int64_t m) {
    const F x = load_some(head + i, m), y = load_some(head + half + i, m);
    const F c = load_some(cos + i, m), s = load_some(sin + i, m);
    store_some(head + i, sub(mul(x, c), mul(y, s)), m);
    store_some(head + half + i, add(mul(y, c), mul(x, s)), m);
  });
}

void conv(float* out, const float* weight, int64_t weight_stride, const float* const* window,
          int64_t channels, int64_t width) {
  for_lanes(channels, [&](int64_t c, int64_t m) {
    F acc = zero();
    for (int64_t j = 0; j < width; ++j) {
      acc = fma(load_some(weight + j * weight_stride + c, m), load_some(window[j] + c, m), acc);
    }
    store_some(out + c, silu_lanes(acc), m);
  });
}

void to_half(uint16_t* out, const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store_half(out + i, load(x + i));
  if (i < n) {
    uint16_t tail[16];
    store_half(tail, load_partial(x + i, n - i));
    for (int64_t j = i; j < n; ++j) out[j] = tail[j - i];
  }
}

}  // namespace hotset::HOTSET_ISA
