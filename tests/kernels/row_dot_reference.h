// What the tests of row dots share: every format, random matrices and activations, and a scalar
// reference written from docs/numerics.md and the plane layouts of kernels/packed.h.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace hotset {

struct NamedFormat {
  const char* name;
  PackedFormat format;
};

inline PackedFormat quantised(Layout layout, int block, ScaleKind scale, OffsetKind offset,
                              int bias) {
  PackedFormat format;
  format.layout = layout;
  format.block = block;
  format.scale = scale;
  format.offset = offset;
  format.bias = static_cast<int8_t>(bias);
  return format;
}
inline PackedFormat with_table(int block, ScaleKind scale, std::array<int8_t, 16> table) {
  PackedFormat format = quantised(Layout::kP4, block, scale, OffsetKind::kNone, 0);
  format.has_table = true;
  format.table = table;
  return format;
}
// Of quantised checkpoints: zero points beside the scales, any block length, a row's factor.
inline PackedFormat with_zeros(Layout layout, int block, ScaleKind scale, OffsetKind offset,
                               bool has_factor) {
  PackedFormat format = quantised(layout, block, scale, offset, 0);
  format.has_factor = has_factor;
  return format;
}
inline PackedFormat with_wide_table(int block) {
  PackedFormat format = with_table(
      block, ScaleKind::kF32, {-127, 127, -127, 126, 0, 0, -1, 1, -2, 64, -64, 100, 5, 9, 11, 0});
  format.two_planes = true;
  format.low_table = {-128, 127, 127, -128, 0, 1, -1, 99, 7, -7, 64, -64, 12, 3, -3, -128};
  return format;
}
inline PackedFormat nvfp4() {
  PackedFormat format =
      with_table(16, ScaleKind::kE4M3, {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12});
  format.has_factor = true;
  return format;
}
inline PackedFormat e4m3(int block, ScaleKind scale, bool has_factor) {
  PackedFormat format = quantised(Layout::kF8, block, scale, OffsetKind::kNone, 0);
  format.has_factor = has_factor;
  return format;
}
inline PackedFormat floats(TensorType element) {
  PackedFormat format;
  format.element = element;
  return format;
}

inline std::vector<NamedFormat> all_formats() {
  using enum Layout;
  constexpr auto kU8 = ScaleKind::kTwoLevelU8;
  constexpr auto kI8 = ScaleKind::kTwoLevelI8;
  constexpr auto kHalf = ScaleKind::kF16;
  constexpr auto kNo = OffsetKind::kNone;
  constexpr auto kHalfOffset = OffsetKind::kF16;
  constexpr auto kU8Offset = OffsetKind::kTwoLevelU8;
  constexpr std::array<int8_t, 16> kIq4 = {-127, -104, -83, -65, -49, -35, -22, -10,
                                           1,    13,   25,  38,  53,  69,  89,  113};
  constexpr std::array<int8_t, 16> kFp4 = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  constexpr std::array<int8_t, 16> kWhole = {-128, 127, -127, 126, 0, 1, -1, 2,
                                             -2,   64,  -64,  100, 5, 9, 11, -128};
  constexpr std::array<int8_t, 16> kSpan63 = {-32, 31, 0, 1, 2,  3,  4,  5,
                                              6,   7,  8, 9, 10, 11, 12, 13};
  return {{"Q4_0", quantised(kP4, 32, kHalf, kNo, 8)},
          {"Q4_1", quantised(kP4, 32, kHalf, kHalfOffset, 0)},
          {"Q4_K", quantised(kP4, 32, kU8, kU8Offset, 0)},
          {"Q3_K", quantised(kP4, 16, kI8, kNo, 4)},
          {"Q2_K", quantised(kP4, 16, kU8, kU8Offset, 0)},
          {"IQ4_NL", with_table(32, kHalf, kIq4)},
          {"IQ4_XS", with_table(32, kI8, kIq4)},
          {"MXFP4", with_table(32, ScaleKind::kE8M0, kFp4)},
          {"table_of_whole_range", with_table(32, kHalf, kWhole)},
          {"table_of_span_63", with_table(32, ScaleKind::kE8M0, kSpan63)},
          {"Q5_0", quantised(kP6, 32, kHalf, kNo, 16)},
          {"Q5_1", quantised(kP6, 32, kHalf, kHalfOffset, 0)},
          {"Q5_K", quantised(kP6, 32, kU8, kU8Offset, 0)},
          {"Q6_K", quantised(kP6, 16, kI8, kNo, 32)},
          {"Q8_0", quantised(kP8, 32, kHalf, kNo, 0)},
          {"GPTQ_g32_f16", with_zeros(kP4, 32, kHalf, OffsetKind::kZeroPoint, false)},
          {"AWQ_g128_bf16", with_zeros(kP4, 128, ScaleKind::kBF16, OffsetKind::kZeroPoint, false)},
          {"GPTQ_row", with_zeros(kP4, 0, ScaleKind::kNone, OffsetKind::kZeroOfRow, true)},
          {"INT4_g64_f32", with_zeros(kP4, 64, ScaleKind::kF32, OffsetKind::kZeroOfRow, false)},
          {"INT8_g128_f16", with_zeros(kP8, 128, kHalf, OffsetKind::kZeroPoint, false)},
          {"INT8_row", with_zeros(kP8, 0, ScaleKind::kNone, OffsetKind::kZeroOfRow, true)},
          {"NF4_64", with_wide_table(64)},
          {"NF4_32", with_wide_table(32)},
          {"NVFP4", nvfp4()},
          {"FP8_block", e4m3(128, ScaleKind::kF32, false)},
          {"FP8_row", e4m3(0, ScaleKind::kNone, true)},
          {"BF16", floats(TensorType::kBF16)},
          {"F16", floats(TensorType::kF16)},
          {"F32", floats(TensorType::kF32)}};
}

inline float half_value(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const float mantissa = static_cast<float>(half & 1023);
  const float value =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024.0f, exponent - 25);
  return half & 0x8000 ? -value : value;
}

// A packed matrix whose planes are random valid fields, in memory of exactly its size (so that
// AddressSanitizer sees reads past it).
class RandomMatrix {
 public:
  RandomMatrix(const PackedFormat& format, int64_t n, int64_t k, uint32_t seed)
      : shape_(packed_shape(format, n, k)),
        data_(static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>(shape_.bytes))),
              &std::free),
        random_(seed) {
    for (int64_t i = 0; i < shape_.bytes; ++i) data_.get()[i] = static_cast<std::byte>(random_());
    std::normal_distribution<float> normal;
    const int64_t rows = shape_.groups() * 8;
    if (format.has_factor) fill(shape_.factors, rows, [&] { return normal(random_); });
    if (format.scale == ScaleKind::kF32) {
      fill(shape_.scales, rows * shape_.blocks(), [&] { return normal(random_); });
    } else if (format.scale == ScaleKind::kBF16) {
      fill(shape_.scales, rows * shape_.blocks(), [&] {
        return static_cast<uint16_t>(__builtin_bit_cast(uint32_t, normal(random_)) >> 16);
      });
    } else if (format.scale == ScaleKind::kE4M3) {
      fill(shape_.scales, rows * shape_.blocks(),
           [&] { return static_cast<uint8_t>(random_() % 127); });
    }
    if (format.layout == Layout::kF8) {
      fill(shape_.codes, rows * shape_.float_inputs(),
           [&] { return static_cast<uint8_t>((random_() % 2) << 7 | random_() % 127); });
    } else if (has_plain_scales(format)) {
      // filled above
    } else if (format.is_float()) {
      fill_elements();
    } else {
      const bool two_level =
          format.scale == ScaleKind::kTwoLevelU8 || format.scale == ScaleKind::kTwoLevelI8;
      const int64_t per_row = two_level ? shape_.supers() : shape_.blocks();
      if (format.scale == ScaleKind::kE8M0) {
        fill(shape_.scales, shape_.groups() * 8 * per_row, [&] {
          return static_cast<uint8_t>(random_() % 3 ? 110 + random_() % 30 : random_() % 4);
        });
      } else {
        fill_halves(shape_.scales, shape_.groups() * 8 * per_row);
      }
      if (format.offset != OffsetKind::kNone && !has_zeros(format)) {
        const bool blocks = format.offset == OffsetKind::kF16;
        fill_halves(shape_.offsets,
                    shape_.groups() * 8 * (blocks ? shape_.blocks() : shape_.supers()));
      }
    }
  }

  static bool has_zeros(const PackedFormat& f) {
    return f.offset == OffsetKind::kZeroPoint || f.offset == OffsetKind::kZeroOfRow;
  }
  static bool has_plain_scales(const PackedFormat& f) {
    return f.layout != Layout::kPF && (f.scale == ScaleKind::kNone || f.scale == ScaleKind::kBF16 ||
                                       f.scale == ScaleKind::kF32 || f.scale == ScaleKind::kE4M3);
  }
  const PackedShape& shape() const { return shape_; }
  PackedMatrix view() const { return {shape_, data_.get()}; }

  void set_codes(int64_t at, int64_t bytes, uint8_t value) {
    std::memset(data_.get() + at, value, static_cast<size_t>(bytes));
  }
  template <class T>
  T get(int64_t plane, int64_t index) const {
    T value;
    std::memcpy(&value, data_.get() + plane + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return value;
  }

  // The integer that code (row, j) stands for.
  int weight(int64_t row, int64_t j) const {
    const PackedFormat& f = shape_.format;
    const int64_t unit = row / 8 * shape_.units() + j / 32;
    const int64_t in_row = row % 8 * 4 + j % 4;
    if (f.layout == Layout::kP8) {
      return get<int8_t>(shape_.codes, unit * 256 + j % 32 / 4 * 32 + in_row) - zero(row, j);
    }
    const int64_t d = j % 16 / 4, half = j % 32 / 16;
    int code = get<uint8_t>(shape_.codes, unit * 128 + d * 32 + in_row) >> (4 * half) & 15;
    if (f.layout == Layout::kP6) {
      const int64_t place = 2 * d + half;
      const int high = get<uint8_t>(shape_.high, unit * 64 + place / 4 * 32 + in_row);
      code |= (high >> (2 * (place % 4)) & 3) << 4;
    }
    const auto at = static_cast<size_t>(code);
    if (f.two_planes) return 256 * f.table[at] + f.low_table[at];
    return f.has_table ? f.table[at] : code - f.bias - zero(row, j);
  }

  int zero(int64_t row, int64_t j) const {
    const OffsetKind kind = shape_.format.offset;
    if (kind == OffsetKind::kZeroOfRow) return get<int8_t>(shape_.offsets, row);
    if (kind != OffsetKind::kZeroPoint) return 0;
    return get<int8_t>(shape_.offsets,
                       (row / 8 * shape_.blocks() + j / shape_.format.block) * 8 + row % 8);
  }

  // Of a cell: min(32, block) inputs.
  float scale(int64_t row, int64_t cell) const {
    const int64_t block = shape_.format.block;
    const int64_t index = block == 0 ? 0 : block > 32 ? cell / (block / 32) : cell;
    const int64_t at = (row / 8 * shape_.blocks() + index) * 8 + row % 8;
    const int64_t super =
        (row / 8 * shape_.supers() + cell * shape_.format.block / 256) * 8 + row % 8;
    switch (shape_.format.scale) {
      case ScaleKind::kF16:
        return half_value(get<uint16_t>(shape_.scales, at));
      case ScaleKind::kE8M0:
        return std::ldexp(1.0f, get<uint8_t>(shape_.scales, at) - 128);
      case ScaleKind::kTwoLevelU8:
        return half_value(get<uint16_t>(shape_.scales, super)) *
               static_cast<float>(get<uint8_t>(shape_.sub_scales, at));
      case ScaleKind::kTwoLevelI8:
        return half_value(get<uint16_t>(shape_.scales, super)) *
               static_cast<float>(get<int8_t>(shape_.sub_scales, at));
      case ScaleKind::kBF16:
        return __builtin_bit_cast(float, uint32_t{get<uint16_t>(shape_.scales, at)} << 16);
      case ScaleKind::kF32:
        return get<float>(shape_.scales, at);
      case ScaleKind::kE4M3:
        return 0.5f * e4m3_value(get<uint8_t>(shape_.scales, at));
      default:
        return 1.0f;
    }
  }

  float factor(int64_t row) const {
    return shape_.format.has_factor ? get<float>(shape_.factors, row) : 1.0f;
  }

  static float e4m3_value(int bits) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    return static_cast<float>(bits & 128 ? -magnitude : magnitude);
  }

  float offset(int64_t row, int64_t cell) const {
    const int64_t at = (row / 8 * shape_.blocks() + cell) * 8 + row % 8;
    const int64_t super =
        (row / 8 * shape_.supers() + cell * shape_.format.block / 256) * 8 + row % 8;
    if (shape_.format.offset == OffsetKind::kF16) {
      return half_value(get<uint16_t>(shape_.offsets, at));
    }
    return -(half_value(get<uint16_t>(shape_.offsets, super)) *
             static_cast<float>(get<uint8_t>(shape_.sub_offsets, at)));
  }

  float element(int64_t row, int64_t j) const {
    const int64_t at = (row / 8 * shape_.float_inputs() + j) * 8 + row % 8;
    if (shape_.format.layout == Layout::kF8) {
      const int64_t block = shape_.format.block;
      const int64_t index = row / 8 * shape_.blocks() + (block == 0 ? 0 : j / block);
      const float value = e4m3_value(get<uint8_t>(shape_.codes, at));
      return shape_.format.scale == ScaleKind::kNone
                 ? value
                 : value * get<float>(shape_.scales, index * 8 + row % 8);
    }
    if (shape_.format.element == TensorType::kF32) return get<float>(shape_.codes, at);
    const uint16_t bits = get<uint16_t>(shape_.codes, at);
    if (shape_.format.element == TensorType::kF16) return half_value(bits);
    return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
  }

 private:
  template <class Make>
  void fill(int64_t plane, int64_t count, Make&& make) {
    for (int64_t i = 0; i < count; ++i) {
      const auto value = make();
      std::memcpy(data_.get() + plane + i * static_cast<int64_t>(sizeof(value)), &value,
                  sizeof(value));
    }
  }
  // Halves of all kinds: either sign, zeros and subnormals among them, never infinite.
  void fill_halves(int64_t plane, int64_t count) {
    fill(plane, count, [&] {
      const uint32_t bits = static_cast<uint32_t>(random_());
      if (bits % 16 == 0) return static_cast<uint16_t>(bits >> 8 & 0x8000);
      if (bits % 16 == 1) return static_cast<uint16_t>(bits >> 8 & 0x83ff);
      return static_cast<uint16_t>((bits >> 8 & 0x83ff) | (5 + bits / 32 % 20) << 10);
    });
  }
  void fill_elements() {
    const int64_t count = shape_.groups() * 8 * shape_.float_inputs();
    std::normal_distribution<float> normal;
    if (shape_.format.element == TensorType::kF32) {
      fill(shape_.codes, count, [&] { return normal(random_); });
    } else if (shape_.format.element == TensorType::kF16) {
      fill_halves(shape_.codes, count);
    } else {
      fill(shape_.codes, count, [&] {
        return static_cast<uint16_t>(__builtin_bit_cast(uint32_t, normal(random_)) >> 16);
      });
    }
  }

  PackedShape shape_;
  std::unique_ptr<std::byte, decltype(&std::free)> data_;
  std::mt19937 random_;
};

// Rows of activations, as floats and as codes.
struct Activations {
  int64_t units, x_stride;
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int16_t> half_sum;
  std::vector<float> x;

  Activations(int64_t rows, int64_t k, uint32_t seed) : units((k + 31) / 32), x_stride(k + 3) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    q.resize(static_cast<size_t>(rows * units * 32));
    scale.resize(static_cast<size_t>(rows * units));
    x.resize(static_cast<size_t>(rows * x_stride));
    for (size_t i = 0; i < q.size(); ++i) {
      const bool is_tail = static_cast<int64_t>(i) % (units * 32) >= k;
      q[i] = is_tail ? int8_t{0} : static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
    }
    for (float& v : scale) v = random() % 20 == 0 ? 0.0f : std::abs(normal(random)) * 0.01f;
    for (float& v : x) v = normal(random);
    sum_halves();
  }
  void sum_halves() {
    half_sum.clear();
    for (size_t i = 0; i < q.size(); i += 16) {
      half_sum.push_back(static_cast<int16_t>(std::accumulate(&q[i], &q[i] + 16, 0)));
    }
  }
};

inline float fold(const float* lane) {
  float u[4], v[2];
  for (int i = 0; i < 4; ++i) u[i] = lane[i] + lane[i + 4];
  for (int i = 0; i < 2; ++i) v[i] = u[i] + u[i + 2];
  return v[0] + v[1];
}

inline float reference_dot(const RandomMatrix& matrix, const std::vector<int>& weights, int64_t row,
                           const Activations& a, int64_t token) {
  const PackedShape& shape = matrix.shape();
  float lane[8] = {};
  if (shape.format.is_float()) {
    for (int64_t j = 0; j < shape.k; ++j) {
      lane[j % 8] = std::fma(matrix.element(row, j), a.x[token * a.x_stride + j], lane[j % 8]);
    }
    return fold(lane) * matrix.factor(row);
  }
  const int64_t block = shape.format.block == 16 ? 16 : 32;  // of a cell
  for (int64_t cell = 0; cell < shape.units() * 32 / block; ++cell) {
    int idot = 0, asum = 0;
    for (int64_t j = cell * block; j < (cell + 1) * block; ++j) {
      const int q = a.q[token * a.units * 32 + j];
      idot += weights[j] * q;
      asum += q;
    }
    const float a_scale = a.scale[token * a.units + cell * block / 32];
    float& sum = lane[cell % 8];
    sum = std::fma(static_cast<float>(idot), matrix.scale(row, cell) * a_scale, sum);
    if (shape.format.offset != OffsetKind::kNone && !RandomMatrix::has_zeros(shape.format)) {
      sum = std::fma(static_cast<float>(asum), matrix.offset(row, cell) * a_scale, sum);
    }
  }
  return fold(lane) * matrix.factor(row);
}

// [tokens][n]
inline std::vector<float> reference(const RandomMatrix& matrix, const Activations& a,
                                    int64_t tokens) {
  const PackedShape& shape = matrix.shape();
  std::vector<float> out(static_cast<size_t>(tokens * shape.n));
  std::vector<int> weights(static_cast<size_t>(shape.units() * 32));
  for (int64_t row = 0; row < shape.n; ++row) {
    if (!shape.format.is_float()) {
      for (int64_t j = 0; j < shape.units() * 32; ++j) weights[j] = matrix.weight(row, j);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      out[t * shape.n + row] = reference_dot(matrix, weights, row, a, t);
    }
  }
  return out;
}

inline RowDotArgs arguments(const RandomMatrix& matrix, Activations& a, int64_t tokens) {
  RowDotArgs args;
  args.matrix = matrix.view();
  args.group_end = matrix.shape().groups();
  args.quantised = {a.q.data(), a.scale.data(), a.half_sum.data(), a.units};
  args.x = a.x.data();
  args.x_stride = a.x_stride;
  args.tokens = tokens;
  return args;
}

// Codes all alike, and activations as large as can be: a row of one sign, of the other, in turn.
inline void make_extreme(RandomMatrix& matrix, int code, Activations& a) {
  const PackedShape& shape = matrix.shape();
  const int64_t units = shape.groups() * shape.units();
  matrix.set_codes(shape.codes, units * (shape.format.layout == Layout::kP8 ? 256 : 128),
                   static_cast<uint8_t>(code));
  if (shape.format.layout == Layout::kP6) {
    matrix.set_codes(shape.high, units * 64, static_cast<uint8_t>(code));
  }
  for (size_t i = 0; i < a.q.size(); ++i) {
    const int8_t signs[] = {127, -127, static_cast<int8_t>(i % 2 ? 127 : -127)};
    a.q[i] = signs[i / 64 % 3];
  }
  a.sum_halves();
}

class RowDotTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    table_ = find_kernel_table(GetParam());
    if (table_ == nullptr) GTEST_SKIP() << "this machine has no " << GetParam();
  }

  // Runs into an output of its own stride and expects rows [first, end) of token t to equal row
  // source(t) of `expected`, and all else to be untouched.
  template <class Source>
  void expect_rows(RowDotArgs args, const std::vector<float>& expected, Source&& source) {
    const int64_t n = args.matrix.shape.n, stride = n + 5;
    const int64_t first = args.group_begin * 8, end = std::min(args.group_end * 8, n);
    std::vector<float> out(static_cast<size_t>(args.tokens * stride), -77.0f);
    args.out = out.data();
    args.out_stride = stride;
    table_->row_dot(args);
    for (int64_t t = 0; t < args.tokens; ++t) {
      for (int64_t i = 0; i < stride; ++i) {
        const float want = i >= first && i < end ? expected[source(t) * n + i] : -77.0f;
        ASSERT_EQ(__builtin_bit_cast(uint32_t, out[t * stride + i]),
                  __builtin_bit_cast(uint32_t, want))
            << "row " << i << " of " << n << ", k " << args.matrix.shape.k << ", token " << t
            << " of " << args.tokens << ": " << out[t * stride + i] << " for " << want;
      }
    }
  }

  const KernelTable* table_ = nullptr;
};

}  // namespace hotset
