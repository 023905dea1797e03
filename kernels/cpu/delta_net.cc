// The gated delta rule for one value head: one token by the recurrence, up to 64 by the chunked
// form. Vectors run over independent outputs (the value dimension, or tokens of the chunk), every
// sum runs over its index in rising order and stops at the token's own index: a row's bits depend
// neither on later rows nor on the vector width. "Gated Delta Networks", Yang et al. 2024, arXiv
// 2412.06464.
#include "kernels/cpu/functions.h"
#include "kernels/simd/float_math.h"

namespace hotset::HOTSET_ISA {

namespace {

// Outputs that are summed together, so that each load serves several sums: rows, and vectors of
// the width. Enough of them to hide an fma's latency.
constexpr int kRowsTogether = kRegisters >= 32 ? 8 : 4;
constexpr int kVectors = kRegisters >= 32 ? 2 : 1;

// A product of matrices: a is [rows][a_stride], b [depth][width], out [rows][out_stride].
struct Product {
  float* out;
  int64_t out_stride;
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t rows, depth, width;
};

// Rows [first, first + kCount) and kWide vectors from column n on. See multiply.
template <bool kCausal, bool kAccumulate, int kCount, int kWide>
inline void multiply_block(const Product& p, int64_t first, int64_t n) {
  const float* const a = p.a + first * p.a_stride;
  const float* const b = p.b + n;
  float* const out = p.out + first * p.out_stride + n;
  F acc[kCount][kWide];
  for (int r = 0; r < kCount; ++r) {
    for (int w = 0; w < kWide; ++w) {
      acc[r][w] = kAccumulate ? load(out + r * p.out_stride + 16 * w) : zero();
    }
  }
  const auto add = [&](int64_t j, int from) __attribute__((always_inline)) {
    F row[kWide];
    for (int w = 0; w < kWide; ++w) row[w] = load(b + j * p.width + 16 * w);
    for (int r = from; r < kCount; ++r) {
      const F factor = keep(set(a[r * p.a_stride + j]));
      for (int w = 0; w < kWide; ++w) acc[r][w] = fma(factor, row[w], acc[r][w]);
    }
  };
  const int64_t common = kCausal ? first + 1 : p.depth;
  for (int64_t j = 0; j < common; ++j) add(j, 0);
  for (int r = 1; kCausal && r < kCount; ++r) add(first + r, r);  // each row's own triangle
  for (int r = 0; r < kCount; ++r) {
    for (int w = 0; w < kWide; ++w) store(out + r * p.out_stride + 16 * w, acc[r][w]);
  }
}

// out[i][n] (+)= sum_{j < limit(i)} a[i][j] * b[j][n] for rows i of [0, rows) and n of [0, width):
// width a multiple of 16. `causal`: limit(i) = i + 1, else `depth`.
template <bool kCausal, bool kAccumulate>
void multiply(float* out, int64_t out_stride, const float* a, int64_t a_stride, const float* b,
              int64_t rows, int64_t depth, int64_t width) {
  const Product p = {out, out_stride, a, a_stride, b, rows, depth, width};
  const auto block = [&]<int kCount>(int64_t first) {
    int64_t n = 0;
    for (; n + 16 * kVectors <= width; n += 16 * kVectors) {
      multiply_block<kCausal, kAccumulate, kCount, kVectors>(p, first, n);
    }
    for (; n < width; n += 16) multiply_block<kCausal, kAccumulate, kCount, 1>(p, first, n);
  };
  int64_t i = 0;
  for (; i + kRowsTogether <= rows; i += kRowsTogether) block.template operator()<kRowsTogether>(i);
  for (; i < rows; ++i) block.template operator()<1>(i);
}

void recurrent(const DeltaArgs& a) {
  const float decay = exp_one(a.g[0]), beta = a.beta[0];
  const F scale = set(decay);
  for (int64_t n = 0; n < a.dv; n += 16) {
    F read = zero();
    for (int64_t i = 0; i < a.dk; ++i) {
      const F row = mul(load(a.state + i * a.dv + n), scale);
      store(a.state + i * a.dv + n, row);
      read = fma(set(a.k[i]), row, read);
    }
    const F update = mul(set(beta), sub(load(a.v + n), read));
    F out = zero();
    for (int64_t i = 0; i < a.dk; ++i) {
      const F row = fma(set(a.k[i]), update, load(a.state + i * a.dv + n));
      store(a.state + i * a.dv + n, row);
      out = fma(set(a.q[i]), row, out);
    }
    store(a.out + n, out);
  }
}

struct ChunkBuffers {
  float *decay, *k_transposed, *scores, *solve, *k_beta, *k_decayed, *v_new, *scaled, *gates;
};

ChunkBuffers split_scratch(const DeltaArgs& a) {
  const int64_t square = kDeltaChunk * kDeltaChunk,
                wide = kDeltaChunk * (a.dk > a.dv ? a.dk : a.dv);
  const int64_t values = kDeltaChunk * a.dv;
  float* p = a.scratch;
  auto take = [&](int64_t count) {
    float* at = p;
    p += count;
    return at;
  };
  return {take(square), take(wide),   take(square), take(square),         take(wide),
          take(wide),   take(values), take(wide),   take(3 * kDeltaChunk)};
}

// decay[i][j] = exp(G_i - G_j) for j <= i: only differences <= 0 are exponentiated.
void fill_decay(const ChunkBuffers& b, const float* cumulative, int64_t tokens) {
  for (int64_t i = 0; i < tokens; ++i) {
    for_lanes(i + 1, [&](int64_t j, int64_t m) {
      const F difference = sub(set(cumulative[i]), load_some(cumulative + j, m));
      store_some(b.decay + i * kDeltaChunk + j, exp_lanes(difference), m);
    });
  }
}

// k_transposed[d][j] = k_j[d], zero beyond the tokens: so that scores vectorise over j.
void transpose_keys(const DeltaArgs& a, float* k_transposed) {
  for (int64_t d = 0; d < a.dk; ++d) {
    for (int64_t j = 0; j < kDeltaChunk; ++j) {
      k_transposed[d * kDeltaChunk + j] = j < a.tokens ? a.k[j * a.k_stride + d] : 0.0f;
    }
  }
}

// T = (I - A)^-1 for strictly lower A, row by row: T[i] = e_i + sum_{j<i} A[i][j] T[j].
void invert_lower(float* t, const float* a, int64_t tokens) {
  for (int64_t i = 0; i < tokens; ++i) {
    F acc[kDeltaChunk / 16];
    for (F& sum : acc) sum = zero();
    for (int64_t j = 0; j < i; ++j) {
      const F factor = keep(set(a[i * kDeltaChunk + j]));
      for (int w = 0; w < kDeltaChunk / 16; ++w) {
        acc[w] = fma(factor, load(t + j * kDeltaChunk + 16 * w), acc[w]);
      }
    }
    for (int w = 0; w < kDeltaChunk / 16; ++w) store(t + i * kDeltaChunk + 16 * w, acc[w]);
    t[i * kDeltaChunk + i] = 1.0f;
  }
}

// rows[i] = scale[i] * x_i
void scale_rows(float* rows, const float* x, int64_t stride, const float* scale, int64_t tokens,
                int64_t width) {
  for (int64_t i = 0; i < tokens; ++i) {
    for (int64_t n = 0; n < width; n += 16) {
      store(rows + i * width + n, mul(set(scale[i]), load(x + i * stride + n)));
    }
  }
}

// x[i][j] = x[i][j] * decay[i][j] (* row_scale[i]) for j < limit, zero from there on.
void mask(float* x, const float* decay, const float* row_scale, int64_t tokens, bool strict) {
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t limit = strict ? i : i + 1;
    for (int64_t j = 0; j < kDeltaChunk; ++j) {
      float& value = x[i * kDeltaChunk + j];
      if (j >= limit) {
        value = 0.0f;
      } else {
        value = row_scale ? -(row_scale[i] * value) * decay[i * kDeltaChunk + j]
                          : value * decay[i * kDeltaChunk + j];
      }
    }
  }
}

void chunked(const DeltaArgs& a) {
  const ChunkBuffers b = split_scratch(a);
  float* cumulative = b.gates;               // G_i
  float* growth = cumulative + kDeltaChunk;  // exp(G_i)
  float* row_scale = growth + kDeltaChunk;   // beta_i, later products with it
  const int64_t tokens = a.tokens;
  float total = 0.0f;
  for (int64_t i = 0; i < tokens; ++i) {
    total = total + a.g[i * a.gate_stride];
    cumulative[i] = total;
    row_scale[i] = a.beta[i * a.gate_stride];
  }
  for_lanes(tokens, [&](int64_t i, int64_t m) {
    store_some(growth + i, exp_lanes(load_some(cumulative + i, m)), m);
  });
  fill_decay(b, cumulative, tokens);
  transpose_keys(a, b.k_transposed);

  // T = (I - strictly_lower(-(beta K) K^T . D))^-1
  multiply<false, false>(b.scores, kDeltaChunk, a.k, a.k_stride, b.k_transposed, tokens, a.dk,
                         kDeltaChunk);
  mask(b.scores, b.decay, row_scale, tokens, true);
  invert_lower(b.solve, b.scores, tokens);

  // V_new = T (beta V) - (T (beta K exp(G))) S
  scale_rows(b.scaled, a.v, a.v_stride, row_scale, tokens, a.dv);
  multiply<true, false>(b.v_new, a.dv, b.solve, kDeltaChunk, b.scaled, tokens, tokens, a.dv);
  for (int64_t i = 0; i < tokens; ++i) row_scale[i] = -(row_scale[i] * growth[i]);
  scale_rows(b.k_beta, a.k, a.k_stride, row_scale, tokens, a.dk);
  multiply<true, false>(b.k_decayed, a.dk, b.solve, kDeltaChunk, b.k_beta, tokens, tokens, a.dk);
  multiply<false, true>(b.v_new, a.dv, b.k_decayed, a.dk, a.state, tokens, a.dk, a.dv);

  // O = (Q exp(G)) S + lower(Q K^T . D) V_new
  multiply<false, false>(b.scores, kDeltaChunk, a.q, a.q_stride, b.k_transposed, tokens, a.dk,
                         kDeltaChunk);
  mask(b.scores, b.decay, nullptr, tokens, false);
  scale_rows(b.k_beta, a.q, a.q_stride, growth, tokens, a.dk);
  multiply<false, false>(a.out, a.out_stride, b.k_beta, a.dk, a.state, tokens, a.dk, a.dv);
  multiply<true, true>(a.out, a.out_stride, b.scores, kDeltaChunk, b.v_new, tokens, tokens, a.dv);

  // S = exp(G_last) S + (K exp(G_last - G))^T V_new
  const float* last = b.decay + (tokens - 1) * kDeltaChunk;
  const F keep = set(growth[tokens - 1]);
  for (int64_t d = 0; d < a.dk; ++d) {
    for (int64_t j = 0; j < tokens; ++j) b.k_transposed[d * kDeltaChunk + j] *= last[j];
    for (int64_t n = 0; n < a.dv; n += 16) {
      store(a.state + d * a.dv + n, mul(keep, load(a.state + d * a.dv + n)));
    }
  }
  multiply<false, true>(a.state, a.dv, b.k_transposed, kDeltaChunk, b.v_new, a.dk, tokens, a.dv);
}

}  // namespace

void delta(const DeltaArgs& args) {
  if (args.tokens == 1) {
    recurrent(args);
  } else {
    chunked(args);
  }
}

}  // namespace hotset::HOTSET_ISA
