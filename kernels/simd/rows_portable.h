// The row dot vocabulary in plain C++: 8 rows a vector, in loops that a compiler may vectorise. See
// rows.h; included only there.
#pragma once

namespace hotset::HOTSET_ISA::rows {

inline constexpr int kGroups = 1;
inline constexpr int kRows = 8;
struct Bytes {  // 4 inputs of each row
  uint8_t v[32];
};
struct Ints {  // an int32 a row
  int32_t v[8];
};
struct Floats {  // a float a row
  float v[8];
};
inline constexpr int kTileTokens = 1, kTileSets = 1;  // sums under way together
inline constexpr int kSets = 1;        // vector sets of rows that several tokens share
inline constexpr int kSignedBias = 0;  // what prepare_signed() adds

// {f(0), f(1), ...}
template <class Vector, class Function>
inline Vector each(Function&& f) {
  Vector out;
  for (int i = 0; i < static_cast<int>(sizeof(out.v) / sizeof(out.v[0])); ++i) out.v[i] = f(i);
  return out;
}

inline Floats load(const float* p) {
  return each<Floats>([&](int i) { return p[i]; });
}
inline void store(float* p, Floats v) {
  std::memcpy(p, v.v, sizeof(v.v));
}
inline Floats zero() {
  return Floats{};
}
inline Floats broadcast(float v) {
  return each<Floats>([&](int) { return v; });
}
inline Floats add(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats mul(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.v[i] * b.v[i]; });
}
inline Floats fma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline Floats to_floats(Ints a) {
  return each<Floats>([&](int i) { return static_cast<float>(a.v[i]); });
}

inline void prefetch(const std::byte* /*at*/) {}
template <class T>
inline T element(const std::byte* at, int i) {
  T value;
  std::memcpy(&value, at + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}
// Finite halves only: packing refuses the others.
inline float half_value(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  // The exponent is moved into place and then corrected by a product, which is exact and turns
  // subnormal halves into normal floats.
  const float scaled = __builtin_bit_cast(float, (half & 0x7fffu) << 13) * 0x1p112f;
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, scaled) | sign);
}

// Loads of a plane: `at` is the first row group's place; the second group's, `next` bytes further,
// is not used here.
inline Bytes load_bytes(const std::byte* at, int64_t /*next*/) {
  return element<Bytes>(at, 0);
}
inline Floats load_f32(const std::byte* at, int64_t /*next*/) {
  return element<Floats>(at, 0);
}
inline Floats load_f16(const std::byte* at, int64_t /*next*/) {
  return each<Floats>([&](int i) { return half_value(element<uint16_t>(at, i)); });
}
inline Floats load_bf16(const std::byte* at, int64_t /*next*/) {
  return each<Floats>([&](int i) {
    return __builtin_bit_cast(float, static_cast<uint32_t>(element<uint16_t>(at, i)) << 16);
  });
}
inline Floats load_u8(const std::byte* at, int64_t /*next*/) {
  return each<Floats>([&](int i) { return static_cast<float>(element<uint8_t>(at, i)); });
}
inline Floats load_i8(const std::byte* at, int64_t /*next*/) {
  return each<Floats>([&](int i) { return static_cast<float>(element<int8_t>(at, i)); });
}
// 2^(e - 128); e = 0 and 1 are float32 subnormals.
inline Floats load_e8m0(const std::byte* at, int64_t /*next*/) {
  return each<Floats>([&](int i) {
    const uint32_t e = element<uint8_t>(at, i);
    return __builtin_bit_cast(float, e < 2 ? 0x00200000u << e : (e - 1) << 23);
  });
}

// The e4m3 number / 256: its bits as those of a half.
inline Floats load_e4m3(const std::byte* at, int64_t /*next*/) {
  return each<Floats>([&](int i) {
    const uint32_t bits = element<uint8_t>(at, i);
    return half_value(static_cast<uint16_t>((bits & 0x7f) << 7 | (bits & 0x80) << 8));
  });
}

inline Bytes low_nibbles(Bytes a) {
  return each<Bytes>([&](int i) { return static_cast<uint8_t>(a.v[i] & 15); });
}
inline Bytes high_nibbles(Bytes a) {
  return each<Bytes>([&](int i) { return static_cast<uint8_t>(a.v[i] >> 4); });
}
inline Bytes combine(Bytes a, Bytes b) {
  return each<Bytes>([&](int i) { return static_cast<uint8_t>(a.v[i] | b.v[i]); });
}
// Bits 2f and 2f+1 of each byte, moved to bits 4 and 5.
template <int kF>
inline Bytes top_bits(Bytes a) {
  return each<Bytes>([&](int i) { return static_cast<uint8_t>((a.v[i] >> 2 * kF & 3) << 4); });
}
inline Bytes load_table(const int8_t* table) {
  return each<Bytes>([&](int i) { return static_cast<uint8_t>(table[i % 16]); });
}
inline Bytes look_up(Bytes table, Bytes codes) {
  return each<Bytes>([&](int i) { return table.v[codes.v[i]]; });
}
inline Bytes prepare_signed(Bytes a) {
  return a;
}

// first * sum of the first half + second * sum of the other, where `weights` = half_weights(...).
inline Ints half_weights(int first, int second) {
  return Ints{{first, second}};
}
inline Ints weigh_halves(const int16_t* half_sum, Ints weights) {
  const int32_t sum = half_sum[0] * weights.v[0] + half_sum[1] * weights.v[1];
  return each<Ints>([&](int) { return sum; });
}
inline Ints zero_ints() {
  return Ints{};
}
// Minus (a row's i8 zero point + bias), as weights for weigh_rows.
inline Ints load_zeros(const std::byte* at, int64_t /*next*/, int bias) {
  return each<Ints>([&](int i) { return -bias - element<int8_t>(at, i); });
}
inline Ints weigh_rows(const int16_t* half_sum, Ints weights) {
  return each<Ints>([&](int i) { return (half_sum[0] + half_sum[1]) * weights.v[i]; });
}

using Inputs = const int8_t*;
inline Floats keep(Floats x) {
  return x;
}
inline Ints keep(Ints x) {
  return x;
}
inline Bytes keep(Bytes x) {
  return x;
}
inline Inputs keep(Inputs x) {
  __asm__("" : "+r"(x));
  return x;
}
inline Inputs four_inputs(const int8_t* q) {
  return q;
}

// Sums of products under way, begun with `start` and finished with it again (rows.h).
template <Range kRange>
inline Ints begin(Ints start) {
  return start;
}
template <Range kRange>
inline Ints add_products(Ints sum, Bytes w0, Inputs x0, Bytes w1, Inputs x1) {
  const auto product = [](uint8_t w, int8_t x) {
    return (kRange == Range::kSigned ? static_cast<int8_t>(w) : w) * x;
  };
  for (int row = 0; row < kRows; ++row) {
    int32_t four = 0;
    for (int b = 0; b < 4; ++b) {
      four += product(w0.v[4 * row + b], x0[b]) + product(w1.v[4 * row + b], x1[b]);
    }
    sum.v[row] += four;
  }
  return sum;
}
template <Range kRange>
inline Ints finish(Ints sum, Ints /*start*/) {
  return sum;
}

inline constexpr int kWideBias = 0;
struct WideSums {
  Ints a, b;
};
inline void wide_weights(Bytes high, Bytes low, Bytes* w) {
  w[0] = high;
  w[1] = low;
}
class WideUnit {
 public:
  WideUnit() = default;
  explicit WideUnit(const int8_t* q) : q_(q) {}
  Inputs four(int j) const { return q_ + 4 * j; }

 private:
  const int8_t* q_;
};
inline WideSums add_wide_products(WideSums sums, const Bytes* w, Inputs x) {
  for (int i = 0; i < 32; ++i) {
    sums.a.v[i / 4] += static_cast<int8_t>(w[0].v[i]) * x[i % 4];
    sums.b.v[i / 4] += w[1].v[i] * x[i % 4];
  }
  return sums;
}
inline Ints finish_wide(WideSums sums, Ints start) {
  return each<Ints>([&](int i) { return 256 * sums.a.v[i] + sums.b.v[i] + start.v[i]; });
}

}  // namespace hotset::HOTSET_ISA::rows
