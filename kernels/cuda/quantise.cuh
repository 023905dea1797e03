// Activations quantised per 32 inputs by the rule of docs/numerics.md.
#pragma once

#include "kernels/cuda/card_sync.cuh"
#include "kernels/cuda/tasks.h"
#include "kernels/simd/float_math.h"

namespace hotset::HOTSET_ISA {

// Input j of row `row`.
HOTSET_DEVICE float input_of(const QuantiseTask& task, int64_t row, const uint32_t* order,
                             int64_t j) {
  const int64_t at = row * task.x_stride + (order != nullptr ? order[j] : j);
  return task.up == nullptr ? task.x[at] : mul(silu_lanes(task.x[at]), task.up[at]);
}

// Where the pair's order lies, or that of all rows; null: none.
HOTSET_DEVICE const uint32_t* order_of(const QuantiseTask& task, int32_t place) {
  if (task.order_at < 0) return task.order;
  return reinterpret_cast<const uint32_t*>(task.slots.at + place * task.slots.bytes +
                                           task.order_at);
}

// Eight threads a unit of 32 inputs, four inputs each; blocks of 128 threads cover rows * units
// units. Bytes: 4 k read and 1.25 k written a row.
HOTSET_KERNEL quantise_kernel(QuantiseTask task, int64_t units) {
  constexpr unsigned kAll = 0xffffffffu;
  const int64_t index = int64_t{blockIdx.x} * (blockDim.x / 8) + threadIdx.x / 8;
  const int64_t unit = index % units;
  int64_t row = index / units;
  const int part = static_cast<int>(threadIdx.x % 8);
  int32_t place = row < task.rows ? 0 : -1;
  if (place == 0 && task.slots.list != nullptr) {
    place = task.slots.list[row].place;
    row = task.slots.list[row].pair;
  } else if (place == 0 && task.slots.places != nullptr) {
    place = task.slots.places[row];
  }

  float v[4] = {};
  if (place >= 0) {
    const uint32_t* const order = order_of(task, place);
    const int64_t from = task.x_is_by_pair ? row : row / task.slots.picks;
    for (int i = 0; i < 4; ++i) {
      const int64_t j = unit * 32 + part * 4 + i;
      if (j >= task.k) break;
      v[i] = input_of(task, from, order, j);
      if (task.out_x != nullptr) task.out_x[row * task.k + j] = v[i];
    }
  }
  // Bits of a float without its sign are ordered like its magnitude, and NaN and infinity last.
  int amax_bits = 0;
  for (int i = 0; i < 4; ++i) {
    const int bits = __float_as_int(v[i]) & 0x7fffffff;
    amax_bits = bits > amax_bits ? bits : amax_bits;
  }
  for (int step = 4; step >= 1; step /= 2) {
    const int other = __shfl_xor_sync(kAll, amax_bits, step);
    amax_bits = other > amax_bits ? other : amax_bits;
  }
  const bool is_finite = amax_bits < 0x7f800000;
  const float amax = __int_as_float(amax_bits);
  const bool is_zero = !is_finite || amax < 0x1p-100f;  // below, 127 / amax might overflow
  const float r = is_zero ? 0.0f : div(127.0f, amax);
  uint32_t codes = 0;
  int sum = 0;
  for (int i = 0; i < 4; ++i) {
    // Adding 1.5 * 2^23 leaves rint(v) in the low bits of the result: |v| is at most about 127.
    const float shifted = add(mul(v[i], r), 0x1.8p23f);
    int value = is_zero ? 0 : __float_as_int(shifted) - 0x4b400000;
    value = value > 127 ? 127 : value;
    value = value < -127 ? -127 : value;
    codes |= (static_cast<uint32_t>(value) & 0xffu) << (8 * i);
    sum += value;
  }
  sum += __shfl_xor_sync(kAll, sum, 1);
  sum += __shfl_xor_sync(kAll, sum, 2);
  if (place < 0) return;
  if (!is_finite && task.not_finite != nullptr) raise_flag(task.not_finite);
  if (task.out.q == nullptr) return;
  const int64_t at = row * task.out.units + unit;
  reinterpret_cast<uint32_t*>(task.out.q)[at * 8 + part] = codes;
  if (part % 4 == 0) task.out.half_sum[at * 2 + part / 4] = static_cast<int16_t>(sum);
  if (part == 0) task.out.scale[at] = is_zero ? 0.0f : div(amax, 127.0f);
}

}  // namespace hotset::HOTSET_ISA
