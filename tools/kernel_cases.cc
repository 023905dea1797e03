#include "tools/kernel_cases.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <random>

#include "kernels/coded_rows.h"
#include "kernels/memory.h"

namespace hotset {
namespace {

constexpr int64_t kStreamed = 128 << 20;  // bytes that no cache holds
constexpr int64_t kHidden = 2048, kExpertRows = 512;
constexpr int64_t kKeyDim = 128, kHeadDim = 256, kHeads = 8, kDepth = 8192;
constexpr int64_t kTaskBytes = 256 << 10;

using Random = std::mt19937;

// Like the engine's workspaces, at multiples of a cache line.
template <class T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* p, size_t) { ::operator delete(p, kLine); }
  bool operator==(const LineAllocator&) const = default;
};
using Floats = std::vector<float, LineAllocator<float>>;

Floats random_floats(int64_t count, float most = 1.0f) {
  Random random(1);
  std::uniform_real_distribution<float> uniform(-most, most);
  Floats values(static_cast<size_t>(count));
  for (float& value : values) value = uniform(random);
  return values;
}

// Fills a plane by repeating 1 MiB of what `make` gives.
template <class Make>
void fill_plane(std::byte* begin, int64_t bytes, const Make& make) {
  using Element = decltype(make());
  auto* const at = reinterpret_cast<Element*>(begin);
  const int64_t count = bytes / static_cast<int64_t>(sizeof(Element));
  const int64_t period = (1 << 20) / static_cast<int64_t>(sizeof(Element));
  for (int64_t i = 0; i < std::min(count, period); ++i) at[i] = make();
  for (int64_t i = period; i < count; i += period) {
    std::copy_n(at, std::min(period, count - i), at + i);
  }
}

// A packed matrix with random codes and scales.
class RandomMatrix {
 public:
  RandomMatrix(const PackedFormat& format, int64_t n, int64_t k)
      : shape_(packed_shape(format, n, k)), memory_(shape_.bytes, "the kernel bench") {
    Random random(2);
    std::byte* const data = memory_.data();
    const auto half = [&] { return static_cast<uint16_t>(0x2000 | (random() & 0x83ff)); };
    const auto small = [&] { return static_cast<uint8_t>(random() % 64); };
    const auto fill = [&](int64_t begin, int64_t end, const auto& make) {
      fill_plane(data + begin, end - begin, make);
    };
    if (format.layout == Layout::kF8) {
      fill(shape_.codes, shape_.high,
           [&] { return static_cast<uint8_t>(0x20 | (random() & 0x9f)); });
    } else if (!format.is_float()) {
      fill(shape_.codes, shape_.scales, [&] { return static_cast<uint8_t>(random()); });
    } else if (format.element == TensorType::kF32) {
      fill(shape_.codes, shape_.high,
           [&] { return std::ldexp(float(random() % 2001) - 1000, -10); });
    } else {  // about 2^-7 .. 2^-6, of either sign
      const bool is_f16 = format.element == TensorType::kF16;
      const uint16_t exponent = is_f16 ? 0x2000 : 0x3c00, rest = is_f16 ? 0x83ff : 0x807f;
      fill(shape_.codes, shape_.high,
           [&] { return static_cast<uint16_t>(exponent | (random() & rest)); });
    }
    if (format.scale == ScaleKind::kE8M0) {
      fill(shape_.scales, shape_.sub_scales,
           [&] { return static_cast<uint8_t>(118 + random() % 4); });
    } else if (format.scale == ScaleKind::kF32) {
      fill(shape_.scales, shape_.sub_scales,
           [&] { return std::ldexp(float(random() % 2001) - 1000, -20); });
    } else {
      fill(shape_.scales, shape_.sub_scales, half);
    }
    fill(shape_.sub_scales, shape_.offsets, small);
    fill(shape_.offsets, shape_.sub_offsets, half);
    fill(shape_.sub_offsets, shape_.bytes, small);
  }
  PackedMatrix view() const { return {shape_, memory_.data()}; }

 private:
  PackedShape shape_;
  Memory memory_;
};

// Activation rows, as floats and quantised.
class RandomRows {
 public:
  RandomRows(const KernelTable& kernels, int64_t rows, int64_t k)
      : k_(k), x_(random_floats(rows * k)) {
    q_.resize(static_cast<size_t>(rows * k));
    scale_.resize(static_cast<size_t>(rows * k / 32));
    half_sum_.resize(static_cast<size_t>(rows * k / 16));
    for (int64_t r = 0; r < rows; ++r) kernels.quantise_activations(&x_[r * k], k, quantised(), r);
  }
  QuantisedRows quantised() { return {q_.data(), scale_.data(), half_sum_.data(), k_ / 32}; }
  const float* floats() const { return x_.data(); }
  double value(bool is_float, int64_t i) const {
    return is_float ? x_[i] : static_cast<double>(q_[i]) * scale_[i / 32];
  }

 private:
  int64_t k_;
  Floats x_;
  std::vector<int8_t> q_;
  std::vector<float> scale_;
  std::vector<int16_t> half_sum_;
};

struct RowDotOperands {
  RandomMatrix matrix;
  RandomRows rows;
  int64_t tokens;
  Floats out;  // [tokens][n]

  RowDotArgs args() {
    RowDotArgs a;
    a.matrix = matrix.view();
    a.group_end = a.matrix.shape.groups();
    a.quantised = rows.quantised();
    a.x = rows.floats();
    a.x_stride = a.matrix.shape.k;
    a.tokens = tokens;
    a.out = out.data();
    a.out_stride = a.matrix.shape.n;
    return a;
  }
  // Over a few rows of the matrix, all tokens.
  double error() {
    const PackedShape& shape = matrix.view().shape;
    std::vector<float> w(static_cast<size_t>(shape.k));
    double worst = 0;
    for (int64_t n = 0; n < shape.n; n += shape.n / 37 + 1) {
      unpack_row(matrix.view(), n, w.data());
      for (int64_t t = 0; t < tokens; ++t) {
        double sum = 0, magnitude = 0;
        for (int64_t j = 0; j < shape.k; ++j) {
          const double product = w[j] * rows.value(shape.format.is_float(), t * shape.k + j);
          sum += product;
          magnitude += std::abs(product);
        }
        worst = std::max(worst, std::abs(out[t * shape.n + n] - sum) / magnitude);
      }
    }
    return worst;
  }
};

// Over a matrix that streams from memory, or over one expert's, in the cache.
KernelCase row_dot_case(const KernelTable& kernels, const PackedFormat& format, int64_t tokens,
                        bool streams) {
  const int64_t row_bytes = packed_shape(format, 8, kHidden).bytes / 8;
  const int64_t n = streams ? kStreamed / row_bytes / 8 * 8 : kExpertRows;
  const auto o = std::make_shared<RowDotOperands>(
      RowDotOperands{RandomMatrix(format, n, kHidden), RandomRows(kernels, tokens, kHidden), tokens,
                     Floats(static_cast<size_t>(n * tokens))});
  const PackedShape shape = o->matrix.view().shape;
  const int64_t each = streams ? kTaskBytes / row_bytes / 8 : shape.groups() / 2;
  const auto run = [&kernels, o, each](ThreadPool& pool) {
    const RowDotArgs all = o->args();
    pool.run((all.group_end + each - 1) / each, [&](int64_t task, int) {
      RowDotArgs a = all;
      a.group_begin = task * each;
      a.group_end = std::min(a.group_begin + each, all.group_end);
      kernels.row_dot(a);
    });
  };
  KernelCase c;
  c.bound = streams ? Bound::kMemory : format.is_float() ? Bound::kFloatFma : Bound::kByteDots;
  c.work = static_cast<double>(streams ? shape.bytes : n * kHidden * tokens);
  c.streamed = {o->matrix.view().data, static_cast<size_t>(shape.bytes)};
  c.run = run;
  c.error = [o, run] {
    ThreadPool one(1);
    run(one);
    return o->error();
  };
  return c;
}

// One row's attention at a depth, over as many KV heads as stream from memory.
struct AttentionOperands {
  Memory kv;
  int64_t heads = 0;  // KV heads
  Floats q = random_floats(kHeads * kHeadDim, 0.3f), out, scratch;

  const uint16_t* plane(int64_t head, bool is_v) const {
    return kv.as<uint16_t>() + (head * 2 + (is_v ? 1 : 0)) * kDepth * kHeadDim;
  }
  void attend(const KernelTable& kernels, int64_t head, int thread) {
    constexpr int64_t kBlocks = kDepth / kKvBlockPositions;
    const void *k[kBlocks], *v[kBlocks];
    for (int64_t b = 0; b < kBlocks; ++b) {
      k[b] = plane(head, false) + b * kKvBlockPositions * kHeadDim;
      v[b] = plane(head, true) + b * kKvBlockPositions * kHeadDim;
    }
    AttentionArgs a;
    a.q = q.data();
    a.heads = kHeads;
    a.dim = kHeadDim;
    a.k_blocks = k;
    a.v_blocks = v;
    a.positions = kDepth;
    a.out = out.data() + head * kHeads * kHeadDim;
    a.scratch = scratch.data() + thread * attention_scratch_floats(kHeadDim);
    kernels.attention(a);
  }
  double error() const {  // of KV head 0, query head 0
    std::vector<float> k(static_cast<size_t>(kDepth * kHeadDim)), v(k.size());
    dequantise_row(TensorType::kF16, reinterpret_cast<const std::byte*>(plane(0, false)), k.data(),
                   std::ssize(k));
    dequantise_row(TensorType::kF16, reinterpret_cast<const std::byte*>(plane(0, true)), v.data(),
                   std::ssize(v));
    std::vector<double> value(kHeadDim), magnitude(kHeadDim);
    double total = 0, worst = 0;
    for (int64_t j = 0; j < kDepth; ++j) {
      double score = 0;
      for (int64_t d = 0; d < kHeadDim; ++d) {
        score += static_cast<double>(q[d]) * k[j * kHeadDim + d];
      }
      const double p = std::exp(score);
      total += p;
      for (int64_t d = 0; d < kHeadDim; ++d) {
        value[d] += p * v[j * kHeadDim + d];
        magnitude[d] += p * std::abs(v[j * kHeadDim + d]);
      }
    }
    for (int64_t d = 0; d < kHeadDim; ++d) {
      worst = std::max(worst, std::abs(out[d] - value[d] / total) / (magnitude[d] / total));
    }
    return worst;
  }
};

KernelCase attention_case(const KernelTable& kernels) {
  const auto o = std::make_shared<AttentionOperands>();
  constexpr int64_t kHeadBytes = 2 * kDepth * kHeadDim * 2;
  o->heads = kStreamed / kHeadBytes;
  o->kv = Memory(o->heads * kHeadBytes, "the kernel bench");
  Random random(3);
  fill_plane(o->kv.data(), o->heads * kHeadBytes,
             [&] { return static_cast<uint16_t>(0x2c00 | (random() & 0x83ff)); });
  o->out.resize(static_cast<size_t>(o->heads * kHeads * kHeadDim));
  const auto run = [&kernels, o](ThreadPool& pool) {
    o->scratch.resize(static_cast<size_t>(pool.size() * attention_scratch_floats(kHeadDim)));
    pool.run(o->heads, [&](int64_t head, int thread) { o->attend(kernels, head, thread); });
  };
  const auto error = [o, run] {
    ThreadPool one(1);
    run(one);
    return o->error();
  };
  const auto bytes = static_cast<size_t>(o->heads * kHeadBytes);
  return {Bound::kMemory, static_cast<double>(bytes), {o->kv.data(), bytes}, run, error};
}

// The gated delta net's state update, one head a task: one token, or a chunk of 64.
struct DeltaOperands {
  int64_t tokens, heads;
  Memory state;
  Floats q, k, v, g, beta, out, scratch;

  DeltaOperands(int64_t tokens_in, int64_t heads_in)
      : tokens(tokens_in),
        heads(heads_in),
        state(heads_in * kKeyDim * kKeyDim * 4, "the kernel bench"),
        q(random_floats(tokens * kKeyDim, 0.1f)),
        k(random_floats(tokens * kKeyDim, 0.1f)),
        v(random_floats(tokens * kKeyDim)),
        g(random_floats(tokens)),
        beta(random_floats(tokens)) {
    for (float& x : g) x = -std::abs(x) - 0.01f;
    for (float& x : beta) x = std::abs(x);
    out.resize(static_cast<size_t>(heads * tokens * kKeyDim));
    fill_state();
  }
  void fill_state() {
    const Floats values = random_floats(kKeyDim * kKeyDim);
    for (int64_t h = 0; h < heads; ++h) {
      std::copy(values.begin(), values.end(), state.as<float>() + h * kKeyDim * kKeyDim);
    }
  }
  void update(const KernelTable& kernels, int64_t head, int thread) {
    DeltaArgs a;
    a.tokens = tokens;
    a.dk = a.dv = kKeyDim;
    a.q = q.data();
    a.k = k.data();
    a.v = v.data();
    a.q_stride = a.k_stride = a.v_stride = a.out_stride = kKeyDim;
    a.g = g.data();
    a.beta = beta.data();
    a.gate_stride = 1;
    a.state = state.as<float>() + head * kKeyDim * kKeyDim;
    a.out = out.data() + head * tokens * kKeyDim;
    a.scratch = scratch.data() + thread * delta_scratch_floats(kKeyDim, kKeyDim);
    kernels.delta(a);
  }
  double error() const {  // of head 0 after one run from fill_state: the recurrence in double
    const Floats start = random_floats(kKeyDim * kKeyDim);
    std::vector<double> s(start.begin(), start.end());
    double worst = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      const float *kt = &k[t * kKeyDim], *qt = &q[t * kKeyDim], *vt = &v[t * kKeyDim];
      for (double& x : s) x *= std::exp(static_cast<double>(g[t]));
      for (int64_t n = 0; n < kKeyDim; ++n) {
        double read = 0, y = 0, magnitude = 0;
        for (int64_t i = 0; i < kKeyDim; ++i) read += kt[i] * s[i * kKeyDim + n];
        for (int64_t i = 0; i < kKeyDim; ++i) {
          s[i * kKeyDim + n] += kt[i] * (beta[t] * (vt[n] - read));
          y += qt[i] * s[i * kKeyDim + n];
          magnitude += std::abs(qt[i] * s[i * kKeyDim + n]);
        }
        worst = std::max(worst, std::abs(out[t * kKeyDim + n] - y) / magnitude);
      }
    }
    return worst;
  }
};

KernelCase delta_case(const KernelTable& kernels, int64_t tokens) {
  constexpr int64_t kStateBytes = kKeyDim * kKeyDim * 4;
  const int64_t heads = tokens == 1 ? kStreamed / kStateBytes : 64;
  const auto o = std::make_shared<DeltaOperands>(tokens, heads);
  const auto run = [&kernels, o](ThreadPool& pool) {
    o->scratch.resize(static_cast<size_t>(pool.size() * delta_scratch_floats(kKeyDim, kKeyDim)));
    pool.run(o->heads, [&](int64_t head, int thread) { o->update(kernels, head, thread); });
  };
  KernelCase c;
  c.streamed = {o->state.data(), static_cast<size_t>(heads * kStateBytes)};
  c.run = run;
  c.error = [o, run] {
    o->fill_state();
    ThreadPool one(1);
    run(one);
    return o->error();
  };
  // The state is read and written. A chunk's products, half of a square where they are causal:
  // K K', Q K'; T V, T K, scores V; K S, Q S, and S itself.
  const int64_t square = tokens * tokens;
  const int64_t macs =
      2 * square * kKeyDim + 3 * square / 2 * kKeyDim + 3 * tokens * kKeyDim * kKeyDim;
  c.bound = tokens == 1 ? Bound::kMemory : Bound::kFloatFma;
  c.work = static_cast<double>(tokens == 1 ? 2 * heads * kStateBytes : heads * macs);
  return c;
}

// A function of one row of floats in the cache, each thread on its own.
struct RowFunction {
  const char* name;
  int64_t bytes_each;  // read and written for each value
  std::function<void(float* y, const float* x)> call;
  std::function<double(double x, double sum_of_squares)> reference;
};

KernelCase row_function_case(const RowFunction& f) {
  constexpr int64_t kTimes = 4096;
  const auto x = std::make_shared<const Floats>(random_floats(kHidden, 4.0f));
  const auto run = [f, x](ThreadPool& pool) {
    pool.run(pool.size(), [&](int64_t, int) {
      alignas(64) float y[kHidden];
      for (int64_t i = 0; i < kTimes / pool.size(); ++i) f.call(y, x->data());
    });
  };
  const auto error = [f, x] {
    float y[kHidden];
    f.call(y, x->data());
    double squares = 0, worst = 0;
    for (const float value : *x) squares += static_cast<double>(value) * value;
    for (int64_t i = 0; i < kHidden; ++i) {
      const double expected = f.reference((*x)[i], squares);
      worst = std::max(worst, std::abs(y[i] - expected) / std::max(std::abs(expected), 1e-3));
    }
    return worst;
  };
  return {Bound::kCache, static_cast<double>(kTimes * kHidden * f.bytes_each), {}, run, error};
}

std::vector<RowFunction> row_functions(const KernelTable& kernels) {
  const auto ones = std::make_shared<const Floats>(kHidden, 1.0f);
  return {
      {"exp", 8, [&kernels](float* y, const float* x) { kernels.exp(y, x, kHidden); },
       [](double x, double) { return std::exp(x); }},
      {"SiLU(x) * x", 12,
       [&kernels](float* y, const float* x) { kernels.silu_mul(y, x, x, kHidden); },
       [](double x, double) { return x * x / (1 + std::exp(-x)); }},
      {"RMS norm", 12,
       [&kernels, ones](float* y, const float* x) {
         kernels.rms_norm(y, x, ones->data(), kHidden, 0);
       },
       [](double x, double squares) { return x / std::sqrt(squares / kHidden); }},
  };
}

}  // namespace

std::vector<NamedCase> kernel_cases(const KernelTable& kernels) {
  constexpr TensorType kTypes[] = {TensorType::kQ4_0,  TensorType::kQ4_1,   TensorType::kQ4_K,
                                   TensorType::kQ5_0,  TensorType::kQ5_K,   TensorType::kQ6_K,
                                   TensorType::kQ8_0,  TensorType::kIQ4_NL, TensorType::kIQ4_XS,
                                   TensorType::kMXFP4, TensorType::kQ2_K,   TensorType::kQ3_K,
                                   TensorType::kBF16,  TensorType::kF16,    TensorType::kF32};
  // What quantised checkpoints become (coded_rows.h): GPTQ and AWQ, NF4, FP8 blocks.
  CodedForm gptq, nf4, fp8;
  gptq.block = fp8.block = 128;
  gptq.scale = ScaleType::kF16;
  gptq.has_zeros = true;
  nf4.block = 64;
  nf4.values = CodedForm::Values::kTable;
  nf4.table = {-1.0f, -0.7f, -0.5f, -0.4f, -0.3f, -0.2f, -0.1f, 0.0f,
               0.1f,  0.2f,  0.25f, 0.3f,  0.4f,  0.6f,  0.7f,  1.0f};
  fp8.values = CodedForm::Values::kE4M3;
  const std::pair<const char*, CodedForm> forms[] = {
      {"GPTQ, group 128", gptq}, {"NF4", nf4}, {"FP8 blocks", fp8}};
  std::vector<NamedCase> cases;
  const auto add_row_dots = [&](const std::string& name, int64_t tokens, bool streams) {
    for (const TensorType type : kTypes) {
      cases.push_back({name, std::string(info(type).name), [&kernels, type, tokens, streams] {
                         return row_dot_case(kernels, packed_format(type), tokens, streams);
                       }});
    }
    for (const auto& [type, form] : forms) {
      const PackedFormat format = packed_format(form, kHidden);
      cases.push_back({name, type, [&kernels, format, tokens, streams] {
                         return row_dot_case(kernels, format, tokens, streams);
                       }});
    }
  };
  add_row_dots("row dot, decode", 1, true);
  for (const int64_t tokens : {1, 2, 10, 64}) {
    add_row_dots("row dot, cached, tokens: " + std::to_string(tokens), tokens, false);
  }
  cases.push_back({"attention, 8 heads a KV head, depth 8192", "F16",
                   [&kernels] { return attention_case(kernels); }});
  cases.push_back({"delta net, decode", "F32", [&kernels] { return delta_case(kernels, 1); }});
  cases.push_back(
      {"delta net, a chunk of 64", "F32", [&kernels] { return delta_case(kernels, kDeltaChunk); }});
  for (const RowFunction& f : row_functions(kernels)) {
    cases.push_back({f.name, "F32", [f] { return row_function_case(f); }});
  }
  return cases;
}

}  // namespace hotset
