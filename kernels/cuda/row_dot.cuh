// Row dots of packed matrices by the numerics rule of docs/numerics.md. A row's eight lanes are
// eight threads, so nothing is summed across threads but the final fold.
//
// Two threads, one for each four rows of a group, hold one lane: in a step, the 16 threads of a
// group read 8 cells, each 32-byte sector of their codes once and whole, in 16-byte loads. (A unit
// spread over 8 threads would make addresses of neighbouring threads neighbours, too, but its sum
// would need three shuffles for every 16 bytes.)
#pragma once

#include "kernels/cuda/row_codes.cuh"
#include "kernels/cuda/tasks.h"

namespace hotset::HOTSET_ISA {

inline constexpr unsigned kRowDotThreads = 128;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// What of a RowDotTask the kernels need.
struct RowDotKernelArgs {
  CardMatrix matrix;
  QuantisedRows q;
  const float* x;
  int64_t x_stride;
  const int32_t* row_ids;
  int64_t tokens, group_begin, group_end;
  float* out;
  int64_t out_stride;
  Slots slots;
  int64_t matrix_at;
  bool x_is_by_pair;
  CardSlotCheck check;
};

// What a block of threads computes: tokens [first, first + count) times the matrix at `data`, null
// where there is nothing to do.
struct RowDotWork {
  const std::byte* data;
  int64_t first, count;
  const CardListedPair* tile;  // the tokens are these pairs; or null
  int32_t place;               // the slot of `data`; -1: none
};

// Whether the slot holds what the table names (CardSlotCheck): every thread looks before it reads.
HOTSET_DEVICE void check_slot(const CardSlotCheck& check, int32_t place) {
  if constexpr (kChecksSlots) {
    if (check.errors == nullptr || place < 0) return;
    const int64_t at = check.first + place;
    const uint32_t named = *static_cast<const volatile uint32_t*>(check.named + at);
    const uint32_t held = *static_cast<const volatile uint32_t*>(check.held + at);
    if (held == named) return;
    volatile CardErrors* const errors = check.errors;
    errors->held = held;
    errors->named = named;
    errors->wrong_slot = static_cast<uint32_t>(at) + 1;
  }
}

// When all of the block have read it: if it was right before, it has been all the while, since no
// generation comes back.
HOTSET_DEVICE void check_slot_again(const CardSlotCheck& check, int32_t place) {
  if constexpr (kChecksSlots) {
    if (check.errors == nullptr) return;
    __syncthreads();
    if (threadIdx.x == 0) check_slot(check, place);
  }
}

HOTSET_DEVICE const std::byte* matrix_in(const RowDotKernelArgs& a, int32_t place) {
  return place < 0 ? nullptr : a.slots.at + place * a.slots.bytes + a.matrix_at;
}

// A list's tile is of one expert, and those who are nobody are its last.
template <int kTokens>
HOTSET_DEVICE RowDotWork work_of(const RowDotKernelArgs& a) {
  RowDotWork work = {a.matrix.data, int64_t{blockIdx.x} * kTokens, kTokens, nullptr, -1};
  if (work.first + kTokens > a.tokens) work.count = a.tokens - work.first;
  if (kTokens > 1 && a.slots.list != nullptr) {
    work.tile = a.slots.list + work.first;
    work.place = work.tile[0].place;
    work.data = matrix_in(a, work.place);
    while (work.count > 1 && work.tile[work.count - 1].pair < 0) --work.count;
  } else if (a.slots.places != nullptr) {
    work.place = a.slots.places[work.first];
    work.data = matrix_in(a, work.place);
  }
  return work;
}

// The token, or the pair, that is number t of the work.
HOTSET_DEVICE int64_t token_of(const RowDotWork& work, int64_t t) {
  return work.tile != nullptr ? work.tile[t].pair : work.first + t;
}

HOTSET_DEVICE int64_t input_row(const RowDotKernelArgs& a, int64_t token) {
  if (!a.x_is_by_pair) return token / a.slots.picks;
  return a.row_ids != nullptr ? a.row_ids[token] : token;
}

// A token's inputs of a cell: dwords of four, and their sum.
struct Inputs {
  const int32_t* q;
  float scale;
  int sum;
};

template <int kCells>
HOTSET_DEVICE Inputs inputs_of(const QuantisedRows& x, int64_t row, int64_t cell) {
  const int64_t unit = row * x.units + cell / kCells, part = cell % kCells;
  const int16_t* const halves = x.half_sum + unit * 2;
  return {reinterpret_cast<const int32_t*>(x.q + unit * 32) + part * 4, x.scale[unit],
          kCells == 1 ? halves[0] + halves[1] : halves[part]};
}

// The products of a cell of four rows with kTokens tokens' inputs, exact.
template <class Codes, int kCells, int kTokens>
HOTSET_DEVICE void cell_dots(const CardMatrix& m, const GroupView& g, int64_t cell, int half,
                             const Inputs* x, int (*dot)[4]) {
  int sums[Codes::kPlanes][kTokens][4] = {};
  const int64_t unit = cell / kCells;
  const bool is_second = cell % kCells != 0;
#pragma unroll
  for (int d = 0; d < Codes::kDwords; ++d) {
    Dwords w[Codes::kPlanes];
    Codes::load(m, g, unit, half, d, w);
#pragma unroll
    for (int p = 0; p < Codes::kPlanes; ++p) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t first = kCells == 2 && is_second ? w[p].high[i] : w[p].low[i];
          sums[p][t][i] = __dp4a(static_cast<int>(first), x[t].q[d], sums[p][t][i]);
          if (kCells == 1 && Codes::kHasHigh) {
            sums[p][t][i] = __dp4a(static_cast<int>(w[p].high[i]), x[t].q[d + 4], sums[p][t][i]);
          }
        }
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < 4; ++i) {
      dot[t][i] = Codes::kPlanes == 1 ? sums[0][t][i]
                                      : 256 * sums[0][t][i] + sums[Codes::kPlanes - 1][t][i];
    }
  }
}

// Adds a cell to the lanes of four rows and kTokens tokens, whose inputs are `rows`.
template <class Codes, int kCells, int kTokens>
HOTSET_DEVICE void add_cell(const RowDotKernelArgs& a, const GroupView& g, int64_t cell, int half,
                            const int64_t* rows, float (*lane)[4]) {
  const CardMatrix& m = a.matrix;
  Inputs x[kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    x[t] = inputs_of<kCells>(a.q, rows[t], cell);
  }
  int dot[kTokens][4], zeros[4] = {};
  cell_dots<Codes, kCells, kTokens>(m, g, cell, half, x, dot);
  float scales[4], offsets[4] = {};
  load_scales<kCells>(m, g, cell, half, scales);
  const bool has_zeros = m.offset == OffsetKind::kZeroPoint || m.offset == OffsetKind::kZeroOfRow;
  const bool has_offset = m.offset != OffsetKind::kNone && !has_zeros;
  if (has_zeros) load_bytes(g.offsets + (cell >> m.zero_shift) * 8 + half * 4, true, zeros);
  if (has_offset) load_offsets<kCells>(m, g, cell, half, offsets);
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int sum = dot[t][i] - (m.bias + zeros[i]) * x[t].sum;
      lane[t][i] = fma(__int2float_rn(sum), mul(scales[i], x[t].scale), lane[t][i]);
      if (!has_offset) continue;
      lane[t][i] = fma(__int2float_rn(x[t].sum), mul(offsets[i], x[t].scale), lane[t][i]);
    }
  }
}

// Folds the eight lanes of kRows rows, which threads `step` apart hold, in the order i + i+4, i +
// i+2, the last two. Each exchange leaves a thread with half of the rows, so that the result of row
// r is in the threads whose lane's bits say r, from the highest.
template <int kRows>
HOTSET_DEVICE float fold_rows(const float* lanes, int lane, int step) {
  float v[kRows];
  for (int i = 0; i < kRows; ++i) v[i] = lanes[i];
  int rows = kRows;
#pragma unroll
  for (int bit = 4; bit >= 1; bit /= 2) {
    if (rows == 1) {
      v[0] = add(v[0], __shfl_xor_sync(kAllLanes, v[0], bit * step));
      continue;
    }
    rows /= 2;
    const bool is_upper = (lane & bit) != 0;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const float kept = is_upper ? v[i + rows] : v[i];
      const float given = is_upper ? v[i] : v[i + rows];
      v[i] = add(kept, __shfl_xor_sync(kAllLanes, given, bit * step));
    }
  }
  return v[0];
}

HOTSET_DEVICE void store_result(const RowDotKernelArgs& a, const std::byte* data, int64_t group,
                                int64_t row, int64_t token, float y) {
  const CardMatrix& m = a.matrix;
  if (group >= a.group_end || group * 8 + row >= m.n) return;
  if (m.has_factor) {
    y = mul(y, load_as<float>(group_view(m, data, group).factors + row * 4));
  }
  a.out[token * a.out_stride + group * 8 + row] = y;
}

// Grid: x over tiles of kTokens tokens (with places over pairs, kTokens 1), y over 8 row groups
// each. 16 threads a group: thread bit 0 the half of the rows, bits 1..3 the lane. Bytes: the
// matrix once for kTokens tokens.
template <class Codes, int kCells, int kTokens>
HOTSET_KERNEL __launch_bounds__(kRowDotThreads) row_dot_kernel(RowDotKernelArgs a) {
  const RowDotWork work = work_of<kTokens>(a);
  if (work.data == nullptr) return;
  check_slot(a.check, work.place);
  const int half = static_cast<int>(threadIdx.x & 1), lane = static_cast<int>(threadIdx.x >> 1 & 7);
  const int64_t group =
      a.group_begin + int64_t{blockIdx.y} * (kRowDotThreads / 16) + threadIdx.x / 16;
  float lanes[kTokens][4] = {};
  if (group < a.group_end) {
    int64_t rows[kTokens];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      rows[t] = input_row(a, token_of(work, t < work.count ? t : 0));
    }
    const GroupView g = group_view(a.matrix, work.data, group);
    for (int64_t cell = lane; cell < a.matrix.cells; cell += 8) {
      add_cell<Codes, kCells, kTokens>(a, g, cell, half, rows, lanes);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    const float y = fold_rows<4>(lanes[t], lane, 2);
    if (lane % 2 != 0 || t >= work.count) continue;
    store_result(a, work.data, group, half * 4 + lane / 2, token_of(work, t), y);
  }
  check_slot_again(a.check, work.place);
}

// Elements of float matrices: eight rows at once.
struct Float32 {
  static constexpr int kBytes = 32;
  static constexpr bool kHasScales = false;
  HOTSET_DEVICE static void load(const std::byte* at, float* out) {
    load_f32(at, out);
    load_f32(at + 16, out + 4);
  }
};
struct BFloat16 {
  static constexpr int kBytes = 16;
  static constexpr bool kHasScales = false;
  HOTSET_DEVICE static void load(const std::byte* at, float* out) {
    uint32_t words[4];
    load_rows(at, words);
    for (int i = 0; i < 8; ++i) out[i] = __uint_as_float(uint32_t{half_word(words, i)} << 16);
  }
};
struct Float16 {
  static constexpr int kBytes = 16;
  static constexpr bool kHasScales = false;
  HOTSET_DEVICE static void load(const std::byte* at, float* out) {
    uint32_t words[4];
    load_rows(at, words);
    for (int i = 0; i < 8; ++i) out[i] = from_half(half_word(words, i));
  }
};
struct E4M3 {
  static constexpr int kBytes = 8;
  static constexpr bool kHasScales = true;
  HOTSET_DEVICE static void load(const std::byte* at, float* out) {  // / 256
    const uint2 both = load_as<uint2>(at);
    const uint32_t words[2] = {both.x, both.y};
    for (int i = 0; i < 8; ++i) out[i] = e4m3_value(words[i / 4] >> (i % 4 * 8) & 0xff);
  }
};

// The scales of input j's block, times the 256 that E4M3 divides by.
HOTSET_DEVICE void load_element_scales(const CardMatrix& m, const GroupView& g, int64_t j,
                                       float* out) {
  for (int i = 0; i < 8; ++i) out[i] = 1.0f;
  if (m.scale == ScaleKind::kF32) {
    load_f32(g.scales + (j >> m.scale_shift) * 32, out);
    load_f32(g.scales + (j >> m.scale_shift) * 32 + 16, out + 4);
  }
  for (int i = 0; i < 8; ++i) out[i] = mul(out[i], 256.0f);
}

// Float matrices: a lane is one thread, which holds all eight rows of a group, so that
// neighbouring threads read neighbouring elements. Grid as above, 16 groups each.
template <class Element, int kTokens>
HOTSET_KERNEL __launch_bounds__(kRowDotThreads) float_dot_kernel(RowDotKernelArgs a) {
  const RowDotWork work = work_of<kTokens>(a);
  if (work.data == nullptr) return;
  check_slot(a.check, work.place);
  const int lane = static_cast<int>(threadIdx.x & 7);
  const int64_t group =
      a.group_begin + int64_t{blockIdx.y} * (kRowDotThreads / 8) + threadIdx.x / 8;
  float lanes[kTokens][8] = {};
  if (group < a.group_end) {
    const float* x[kTokens];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      x[t] = a.x + input_row(a, token_of(work, t < work.count ? t : 0)) * a.x_stride;
    }
    const GroupView g = group_view(a.matrix, work.data, group);
    float scales[8] = {};
    int64_t next_block = 0;
    for (int64_t j = lane; j < a.matrix.k; j += 8) {
      float w[8];
      Element::load(g.codes + j * Element::kBytes, w);
      if (Element::kHasScales) {
        if (j >= next_block) {
          load_element_scales(a.matrix, g, j, scales);
          next_block = ((j >> a.matrix.scale_shift) + 1) << a.matrix.scale_shift;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) w[i] = mul(w[i], scales[i]);
      }
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float input = x[t][j];
#pragma unroll
        for (int i = 0; i < 8; ++i) lanes[t][i] = fma(w[i], input, lanes[t][i]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    const float y = fold_rows<8>(lanes[t], lane, 1);
    if (t >= work.count) continue;
    store_result(a, work.data, group, lane, token_of(work, t), y);
  }
  check_slot_again(a.check, work.place);
}

}  // namespace hotset::HOTSET_ISA
