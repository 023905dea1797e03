// What the row dots of quantised and of float matrices share: where a set of row groups lies in the
// planes, and how its 8 lanes become results (docs/numerics.md).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/simd/rows.h"

namespace hotset::HOTSET_ISA {

// A plane at this set's first row group. The second group, where a vector holds two, is `next`
// bytes further: 0 at the end of the range, so that nothing is read past it. What to ask for
// meanwhile is `ahead` bytes further, 0 where the matrix ends.
struct Plane {
  const std::byte* at;
  int64_t next;
  int64_t ahead;
};

// How many sets ahead of the one in use memory is asked: a thread uses up 16 KB in about a
// microsecond, several times the latency of DRAM.
// Not less than the sets that are used together.
inline int64_t sets_ahead(int64_t set_bytes) {
  constexpr int kMost = rows::kSets > rows::kTileSets ? rows::kSets : rows::kTileSets;
  const int64_t sets = (16 * 1024 + set_bytes - 1) / set_bytes;
  return sets < kMost ? kMost : sets;
}

// The plane that starts `offset` bytes into the matrix and has `stride` bytes a row group.
// `groups_ahead` may reach past the range: the next task is often the same thread's.
inline Plane plane_at(const RowDotArgs& args, int64_t offset, int64_t stride, int64_t group,
                      int64_t groups_ahead) {
  const bool has_next = rows::kGroups > 1 && group + 1 < args.group_end;
  const bool has_ahead = group + groups_ahead + rows::kGroups <= args.matrix.shape.groups();
  return {args.matrix.data + offset + group * stride, has_next ? stride : 0,
          has_ahead ? groups_ahead * stride : 0};
}

inline int64_t activation_row(const RowDotArgs& args, int64_t token) {
  return args.row_ids != nullptr ? args.row_ids[token] : token;
}

// Asks for the next set's share of a plane while this one's is used, kBytes a unit and row group,
// in the order of memory: the processor's own prefetching loses its streams at pages and sets. Q4_0
// from DRAM, one Zen 4 thread, AVX-512: 15 GB/s without, 21 in the order of use, 25 in that of
// memory, where a plain read reaches 43. Q8_0, two Zen 3 threads: 24 GB/s of 33 with a hint every
// fourth line, 29 of 31 with one for each.
template <int kBytes>
inline void prefetch_next(const Plane& plane, int64_t unit) {
  constexpr int kLine = 64;
  constexpr int kStep = kBytes * rows::kGroups;
  if (kStep < kLine && unit % (kLine / kStep) != 0) return;
  const std::byte* at = plane.at + plane.ahead + unit * kStep;
  for (int i = 0; i < kStep; i += kLine) rows::prefetch(at + i);
}

// Folds one token's lanes [8][rows::kRows] and stores those results of the set that are in range.
inline void store_results(const RowDotArgs& args, const float* lanes, int64_t group,
                          int64_t token) {
  constexpr int kRows = rows::kRows;
  rows::Floats lane[8];
  for (int i = 0; i < 8; ++i) lane[i] = rows::load(lanes + i * kRows);
  for (int i = 0; i < 4; ++i) lane[i] = rows::add(lane[i], lane[i + 4]);
  for (int i = 0; i < 2; ++i) lane[i] = rows::add(lane[i], lane[i + 2]);
  rows::Floats y = rows::add(lane[0], lane[1]);
  const PackedShape& shape = args.matrix.shape;
  if (shape.format.has_factor) {
    const Plane factors = plane_at(args, shape.factors, 32, group, 0);
    y = rows::mul(y, rows::load_f32(factors.at, factors.next));
  }

  const int64_t first = group * 8;
  int64_t end = args.group_end * 8;
  if (end > shape.n) end = shape.n;
  float* out = args.out + token * args.out_stride + first;
  if (end - first >= kRows) {
    rows::store(out, y);
  } else {
    float part[kRows];
    rows::store(part, y);
    for (int64_t i = 0; i < end - first; ++i) out[i] = part[i];
  }
}

// row_dot for P4, P6, P8 and for PF.
void row_dot_quantised(const RowDotArgs& args);
void row_dot_float(const RowDotArgs& args);

}  // namespace hotset::HOTSET_ISA

// What other sets leave to these: one token, a few tokens.
namespace hotset::avx2 {
void row_dot_quantised(const RowDotArgs& args);
}
namespace hotset::avx512vnni {
void row_dot_quantised(const RowDotArgs& args);
}
