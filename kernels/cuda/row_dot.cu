#include "kernels/cuda/launchers.h"
#include "kernels/cuda/row_dot.cuh"

namespace hotset::HOTSET_ISA {
namespace {

constexpr int kTile = kCardTile;  // tokens that share a read of the weights

CardMatrix card_matrix(const PackedMatrix& matrix) {
  const PackedShape& s = matrix.shape;
  const PackedFormat& f = s.format;
  constexpr int kWholeRow = 40;
  CardMatrix m = {};
  m.data = matrix.data;
  m.at = {s.codes, s.high, s.scales, s.sub_scales, s.offsets, s.sub_offsets, s.factors};
  m.group_bytes = group_bytes(s);
  m.n = s.n;
  m.k = s.k;
  m.cells = f.block == 16 ? s.units() * 2 : s.units();
  m.scale = f.scale;
  m.offset = f.offset;
  m.has_factor = f.has_factor;
  m.bias = f.layout == Layout::kP8 || f.has_table ? 0 : f.bias;
  if (f.is_float()) {
    m.scale_shift = f.block == 0 ? kWholeRow : __builtin_ctz(static_cast<unsigned>(f.block));
  } else {
    m.scale_shift = f.block == 0    ? kWholeRow
                    : f.block == 16 ? 0
                                    : __builtin_ctz(static_cast<unsigned>(f.block)) - 5;
    m.zero_shift = f.offset == OffsetKind::kZeroPoint ? m.scale_shift : kWholeRow;
  }
  for (size_t i = 0; i < 16; ++i) {
    m.table[i / 4] |= static_cast<uint32_t>(f.table[i] & 0xff) << (i % 4 * 8);
    m.low_table[i / 4] |= static_cast<uint32_t>(f.low_table[i] & 0xff) << (i % 4 * 8);
  }
  return m;
}

struct Launch {
  RowDotKernelArgs args;
  CardStream stream;

  // Neighbouring tokens have one matrix, unless each is a pair on its own slot.
  bool has_tiles() const {
    return args.slots.list != nullptr || (args.tokens > 1 && args.slots.places == nullptr);
  }

  // `groups`: those of a block of threads.
  void over(void (*kernel)(RowDotKernelArgs), int64_t tile, int64_t groups) const {
    const int64_t count = args.group_end - args.group_begin;
    const int64_t tiles = (args.tokens + tile - 1) / tile;
    if (count <= 0 || tiles == 0) return;
    launch(kernel,
           dim3(static_cast<unsigned>(tiles), static_cast<unsigned>((count + groups - 1) / groups)),
           dim3(kRowDotThreads), 0, stream, args);
  }
  template <class Codes, int kCells>
  void codes() const {
    constexpr int64_t kGroups = kRowDotThreads / 16;
    if (has_tiles()) {
      over(row_dot_kernel<Codes, kCells, kTile>, kTile, kGroups);
    } else {
      over(row_dot_kernel<Codes, kCells, 1>, 1, kGroups);
    }
  }
  template <class Codes>
  void codes(const PackedFormat& format) const {
    format.block == 16 ? codes<Codes, 2>() : codes<Codes, 1>();
  }
  template <class Element>
  void elements() const {
    constexpr int64_t kGroups = kRowDotThreads / 8;
    if (has_tiles()) {
      over(float_dot_kernel<Element, kTile>, kTile, kGroups);
    } else {
      over(float_dot_kernel<Element, 1>, 1, kGroups);
    }
  }
};

}  // namespace

void launch_row_dot(CardStream stream, const RowDotTask& task) {
  const RowDotArgs& a = task.args;
  const PackedFormat& f = a.matrix.shape.format;
  const Launch go{{.matrix = card_matrix(a.matrix),
                   .q = a.quantised,
                   .x = a.x,
                   .x_stride = a.x_stride,
                   .row_ids = a.row_ids,
                   .tokens = a.tokens,
                   .group_begin = a.group_begin,
                   .group_end = a.group_end,
                   .out = a.out,
                   .out_stride = a.out_stride,
                   .slots = task.slots,
                   .matrix_at = task.matrix_at,
                   .x_is_by_pair = task.x_is_by_pair,
                   .check = task.check},
                  stream};
  if (f.layout == Layout::kP8) return go.codes<EightBits, 1>();
  if (f.layout == Layout::kP6) return go.codes<SixBits>(f);
  if (f.layout == Layout::kP4 && f.two_planes) return go.codes<TableNibbles<2>, 1>();
  if (f.layout == Layout::kP4 && f.has_table) return go.codes<TableNibbles<1>>(f);
  if (f.layout == Layout::kP4) return go.codes<Nibbles>(f);
  if (f.layout == Layout::kF8) return go.elements<E4M3>();
  if (f.element == TensorType::kF32) return go.elements<Float32>();
  if (f.element == TensorType::kF16) return go.elements<Float16>();
  go.elements<BFloat16>();
}

void row_dot(CardStream stream, const RowDotArgs& args) {
  RowDotTask task;
  task.args = args;
  launch_row_dot(stream, task);
}

}  // namespace hotset::HOTSET_ISA
