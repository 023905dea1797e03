// The float kernels: against double precision, and the same bits from every instruction set this
// machine has.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace hotset {
namespace {

std::vector<const KernelTable*> tables() {
  std::vector<const KernelTable*> found;
  for (const char* name : kKernelTableNames) {
    if (const KernelTable* t = find_kernel_table(name)) {
      found.push_back(t);
    } else {
      std::printf("not run, this machine lacks: %s\n", name);
    }
  }
  return found;
}

std::vector<float> random_floats(size_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

// Runs `compute` (table -> result) with every table; all results must have the bits of the first.
template <class Compute>
std::vector<float> same_everywhere(Compute compute) {
  const auto all = tables();
  const std::vector<float> first = compute(*all[0]);
  for (const KernelTable* t : all) {
    const std::vector<float> other = compute(*t);
    EXPECT_EQ(std::memcmp(first.data(), other.data(), first.size() * 4), 0) << t->name;
  }
  return first;
}

void expect_near(const std::vector<float>& a, const std::vector<double>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance) << "at " << i;
}

TEST(FloatOpsTest, NormsAndSoftmaxMatchDoublePrecisionAtEveryLength) {
  for (const int64_t n : {1, 3, 8, 15, 16, 17, 32, 100, 2048}) {
    SCOPED_TRACE(n);
    const std::vector<float> x = random_floats(n, 1, 2.0f), w = random_floats(n, 2);
    double squares = 0, sum = 0, largest = -HUGE_VAL;
    for (const float v : x) {
      squares += static_cast<double>(v) * v;
      largest = std::max<double>(largest, v);
    }
    for (const float v : x) sum += std::exp(v - largest);
    std::vector<double> norm, l2, softmax;
    for (int64_t i = 0; i < n; ++i) {
      norm.push_back(x[i] / std::sqrt(squares / static_cast<double>(n) + 1e-6) * w[i]);
      l2.push_back(0.25 * x[i] / std::sqrt(squares + 1e-6));
      softmax.push_back(std::exp(x[i] - largest) / sum);
    }
    expect_near(same_everywhere([&](const KernelTable& t) {
                  std::vector<float> y(n);
                  t.rms_norm(y.data(), x.data(), w.data(), n, 1e-6f);
                  return y;
                }),
                norm, 1e-5);
    expect_near(same_everywhere([&](const KernelTable& t) {
                  std::vector<float> y = x;
                  t.l2_norm(y.data(), n, 1e-6f, 0.25f);
                  return y;
                }),
                l2, 1e-6);
    expect_near(same_everywhere([&](const KernelTable& t) {
                  std::vector<float> y(n);
                  t.softmax(y.data(), x.data(), n);
                  return y;
                }),
                softmax, 1e-6);
  }
}

TEST(FloatOpsTest, ElementwiseOperationsMatchDoublePrecision) {
  for (const int64_t n : {1, 16, 37}) {
    const std::vector<float> a = random_floats(n, 3, 3.0f), b = random_floats(n, 4);
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    std::vector<double> silu_mul, gated, scaled;
    for (int64_t i = 0; i < n; ++i) {
      silu_mul.push_back(a[i] * sigmoid(a[i]) * b[i]);
      gated.push_back(b[i] * sigmoid(a[i]));
      scaled.push_back(b[i] + 0.7f * static_cast<double>(a[i]));
    }
    const auto run = [&](auto op) {
      return same_everywhere([&](const KernelTable& t) {
        std::vector<float> y = b;
        op(t, y.data());
        return y;
      });
    };
    expect_near(run([&](const KernelTable& t, float* y) { t.silu_mul(y, a.data(), b.data(), n); }),
                silu_mul, 1e-5);
    expect_near(run([&](const KernelTable& t, float* y) { t.sigmoid_mul(y, a.data(), n); }), gated,
                1e-6);
    expect_near(run([&](const KernelTable& t, float* y) { t.add_scaled(y, 0.7f, a.data(), n); }),
                scaled, 1e-6);
  }
}

TEST(FloatOpsTest, HalvesRoundLikeTheReferenceOnEveryInstructionSet) {
  std::vector<float> x = random_floats(1003, 5, 100.0f);
  for (const float v : {0.0f, -0.0f, 65504.0f, 65519.0f, 65520.0f, 1e-8f, 5.9604645e-8f,
                        2.9802322e-8f, 6.1e-5f, 1e-6f, 1e10f}) {
    x.push_back(v);
    x.push_back(-v);
  }
  same_everywhere([&](const KernelTable& t) {
    std::vector<uint16_t> halves(x.size());
    t.to_half(halves.data(), x.data(), static_cast<int64_t>(x.size()));
    std::vector<float> back;
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(halves[i], float_to_half(x[i])) << t.name << " " << x[i];
      back.push_back(half_to_float(halves[i]));
    }
    return back;
  });
}

// Attention against double precision, over block borders and head counts, f16 and f32.
TEST(AttentionTest, MatchesDoublePrecisionOverBlockBorders) {
  constexpr int64_t kDim = 32;
  for (const int64_t heads : {1, 2, 3, 8, 11}) {
    for (const int64_t positions : {1, 15, 255, 256, 257, 700}) {
      SCOPED_TRACE(testing::Message() << heads << " heads, " << positions << " positions");
      const std::vector<float> q = random_floats(heads * kDim, 6), k = random_floats(768 * kDim, 7),
                               v = random_floats(768 * kDim, 8);
      const void *kb[3], *vb[3];
      for (int b = 0; b < 3; ++b) {
        kb[b] = k.data() + b * 256 * kDim;
        vb[b] = v.data() + b * 256 * kDim;
      }
      std::vector<double> expected;
      for (int64_t h = 0; h < heads; ++h) {
        std::vector<double> p(positions);
        double largest = -HUGE_VAL, sum = 0;
        for (int64_t j = 0; j < positions; ++j) {
          for (int64_t d = 0; d < kDim; ++d)
            p[j] += static_cast<double>(q[h * kDim + d]) * k[j * kDim + d];
          largest = std::max(largest, p[j]);
        }
        for (double& s : p) sum += s = std::exp(s - largest);
        for (int64_t d = 0; d < kDim; ++d) {
          double o = 0;
          for (int64_t j = 0; j < positions; ++j) o += p[j] / sum * v[j * kDim + d];
          expected.push_back(o);
        }
      }
      expect_near(same_everywhere([&](const KernelTable& t) {
                    std::vector<float> out(heads * kDim), scratch(attention_scratch_floats(kDim));
                    t.attention({q.data(), heads, kDim, kb, vb, positions, false, out.data(),
                                 scratch.data()});
                    return out;
                  }),
                  expected, 1e-5);
    }
  }
}

struct DeltaCase {
  int64_t tokens, dk, dv;
};

// The recurrence in double precision.
std::vector<double> delta_reference(const DeltaCase& c, const std::vector<float>& q,
                                    const std::vector<float>& k, const std::vector<float>& v,
                                    const std::vector<float>& g, const std::vector<float>& beta,
                                    std::vector<double>& s) {
  std::vector<double> out;
  for (int64_t t = 0; t < c.tokens; ++t) {
    std::vector<double> update(c.dv);
    for (double& x : s) x *= std::exp(g[t]);
    for (int64_t n = 0; n < c.dv; ++n) {
      double read = 0;
      for (int64_t i = 0; i < c.dk; ++i) read += s[i * c.dv + n] * k[t * c.dk + i];
      update[n] = beta[t] * (v[t * c.dv + n] - read);
    }
    for (int64_t n = 0; n < c.dv; ++n) {
      double o = 0;
      for (int64_t i = 0; i < c.dk; ++i) {
        s[i * c.dv + n] += k[t * c.dk + i] * update[n];
        o += s[i * c.dv + n] * q[t * c.dk + i];
      }
      out.push_back(o);
    }
  }
  return out;
}

TEST(DeltaNetTest, ChunksAndSingleTokensMatchTheRecurrenceInDoublePrecision) {
  for (const DeltaCase c : {DeltaCase{1, 16, 32},
                            {2, 16, 32},
                            {63, 32, 16},
                            {64, 128, 128},
                            {65, 64, 64},
                            {200, 16, 32}}) {
    SCOPED_TRACE(testing::Message() << c.tokens << " tokens");
    std::vector<float> q = random_floats(c.tokens * c.dk, 9),
                       k = random_floats(c.tokens * c.dk, 10);
    const std::vector<float> v = random_floats(c.tokens * c.dv, 11),
                             start = random_floats(c.dk * c.dv, 12);
    std::vector<float> g = random_floats(c.tokens, 13), beta = random_floats(c.tokens, 14);
    for (float& x : g) x = -std::fabs(x) * 0.3f;
    for (float& x : beta) x = 1 / (1 + std::exp(-x));
    for (int64_t t = 0; t < c.tokens; ++t) {
      tables()[0]->l2_norm(q.data() + t * c.dk, c.dk, 1e-6f, 0.3f);
      tables()[0]->l2_norm(k.data() + t * c.dk, c.dk, 1e-6f, 1.0f);
    }
    std::vector<double> state(start.begin(), start.end());
    std::vector<double> expected = delta_reference(c, q, k, v, g, beta, state);
    expected.insert(expected.end(), state.begin(), state.end());
    const auto run = [&](const KernelTable& t, int64_t step) {
      std::vector<float> s = start, out(c.tokens * c.dv), scratch(delta_scratch_floats(c.dk, c.dv));
      for (int64_t at = 0; at < c.tokens; at += step) {
        DeltaArgs a;
        a.tokens = std::min(step, c.tokens - at);
        a.dk = c.dk;
        a.dv = c.dv;
        a.q = q.data() + at * c.dk;
        a.k = k.data() + at * c.dk;
        a.v = v.data() + at * c.dv;
        a.q_stride = a.k_stride = c.dk;
        a.v_stride = a.out_stride = c.dv;
        a.g = g.data() + at;
        a.beta = beta.data() + at;
        a.gate_stride = 1;
        a.state = s.data();
        a.out = out.data() + at * c.dv;
        a.scratch = scratch.data();
        t.delta(a);
      }
      out.insert(out.end(), s.begin(), s.end());
      return out;
    };
    for (const int64_t step : {1, 7, 64}) {
      SCOPED_TRACE(testing::Message() << "in steps of " << step);
      expect_near(same_everywhere([&](const KernelTable& t) { return run(t, step); }), expected,
                  5e-5);
    }
  }
}

// A chunk's earlier rows must not feel that later ones are there.
TEST(DeltaNetTest, RowsOfAChunkDoNotDependOnLaterRows) {
  constexpr int64_t kTokens = 64, kDim = 32;
  const std::vector<float> q = random_floats(kTokens * kDim, 15, 0.2f),
                           k = random_floats(kTokens * kDim, 16, 0.2f),
                           v = random_floats(kTokens * kDim, 17), beta(kTokens, 0.5f),
                           g(kTokens, -0.1f);
  const auto run = [&](int64_t tokens) {
    std::vector<float> s = random_floats(kDim * kDim, 18), out(tokens * kDim),
                       scratch(delta_scratch_floats(kDim, kDim), 1e30f);
    DeltaArgs a{tokens,   kDim,       kDim, q.data(),      k.data(),    v.data(),
                kDim,     kDim,       kDim, g.data(),      beta.data(), 1,
                s.data(), out.data(), kDim, scratch.data()};
    best_kernel_table().delta(a);
    return out;
  };
  const std::vector<float> whole = run(kTokens);
  for (const int64_t tokens : {2, 3, 5, 31, 63}) {
    const std::vector<float> part = run(tokens);
    EXPECT_EQ(std::memcmp(part.data(), whole.data(), part.size() * 4), 0) << tokens;
  }
}

}  // namespace
}  // namespace hotset
