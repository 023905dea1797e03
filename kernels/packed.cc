// Which layout a source type is packed into, where the planes of a matrix and the matrices of an
// expert lie, and the loop over row groups that packs them.
#include "kernels/packed.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/check.h"
#include "kernels/formats/block_layout.h"
#include "kernels/pack_group.h"

namespace hotset {
namespace {

constexpr int64_t kPlaneAlignment = 64;
constexpr int64_t kExpertAlignment = 256;  // an expert moves in one transfer

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

PackedFormat affine(Layout layout, int bias, int32_t block, ScaleKind scale,
                    OffsetKind offset = OffsetKind::kNone) {
  PackedFormat format;
  format.layout = layout;
  format.block = block;
  format.scale = scale;
  format.offset = offset;
  format.bias = static_cast<int8_t>(bias);
  return format;
}

PackedFormat with_table(const std::array<int8_t, 16>& table, ScaleKind scale) {
  PackedFormat format = affine(Layout::kP4, 0, 32, scale);
  format.has_table = true;
  format.table = table;
  return format;
}

PackedFormat floats(TensorType element) {
  PackedFormat format;
  format.element = element;
  return format;
}

[[noreturn]] void refuse_not_finite(TensorType type, int64_t row, int64_t block) {
  const bool is_block = info(type).block_size > 1;
  throw Error("row " + std::to_string(row) + ", " + (is_block ? "block " : "element ") +
              std::to_string(block) + ": found a" + (is_block ? " scale" : " weight") +
              " that is not finite in " + std::string(info(type).name) +
              " data, expected finite numbers; the file is damaged, fetch or convert it again");
}

bool packs_into(TensorType source, const PackedFormat& format) {
  if (format == floats(TensorType::kF32) || format == packed_format(source)) return true;
  return format == packed_format(source, true);
}

}  // namespace

PackedFormat packed_format(TensorType source, bool all_bf16) {
  switch (source) {
    case TensorType::kQ4_0:
      return affine(Layout::kP4, 8, 32, ScaleKind::kF16);
    case TensorType::kQ4_1:
      return affine(Layout::kP4, 0, 32, ScaleKind::kF16, OffsetKind::kF16);
    case TensorType::kQ5_0:
      return affine(Layout::kP6, 16, 32, ScaleKind::kF16);
    case TensorType::kQ5_1:
      return affine(Layout::kP6, 0, 32, ScaleKind::kF16, OffsetKind::kF16);
    case TensorType::kQ8_0:
      return affine(Layout::kP8, 0, 32, ScaleKind::kF16);
    case TensorType::kQ2_K:
      return affine(Layout::kP4, 0, 16, ScaleKind::kTwoLevelU8, OffsetKind::kTwoLevelU8);
    case TensorType::kQ3_K:
      return affine(Layout::kP4, 4, 16, ScaleKind::kTwoLevelI8);
    case TensorType::kQ4_K:
      return affine(Layout::kP4, 0, 32, ScaleKind::kTwoLevelU8, OffsetKind::kTwoLevelU8);
    case TensorType::kQ5_K:
      return affine(Layout::kP6, 0, 32, ScaleKind::kTwoLevelU8, OffsetKind::kTwoLevelU8);
    case TensorType::kQ6_K:
      return affine(Layout::kP6, 32, 16, ScaleKind::kTwoLevelI8);
    case TensorType::kIQ4_NL:
      return with_table(kIq4Table, ScaleKind::kF16);
    case TensorType::kIQ4_XS:
      return with_table(kIq4Table, ScaleKind::kTwoLevelI8);
    case TensorType::kMXFP4:
      return with_table(kMxfp4Table, ScaleKind::kE8M0);
    case TensorType::kF32:
    case TensorType::kF16:
    case TensorType::kBF16:
      return floats(all_bf16 ? TensorType::kBF16 : source);
  }
  HOTSET_CHECK(false, "a TensorType that is none of its enumerators");
  return {};
}

void clear_group(const Planes<std::byte*>& group, const Planes<int64_t>& bytes) {
  const auto zero = [](std::byte* at, int64_t n) { std::memset(at, 0, static_cast<size_t>(n)); };
  zero(group.codes, bytes.codes);
  zero(group.high, bytes.high);
  zero(group.scales, bytes.scales);
  zero(group.sub_scales, bytes.sub_scales);
  zero(group.offsets, bytes.offsets);
  zero(group.sub_offsets, bytes.sub_offsets);
  zero(group.factors, bytes.factors);
}

Planes<std::byte*> group_planes(const PackedShape& shape, int64_t g, std::byte* packed) {
  const Planes<int64_t> bytes = group_bytes(shape);
  return {
      packed + shape.codes + g * bytes.codes,
      packed + shape.high + g * bytes.high,
      packed + shape.scales + g * bytes.scales,
      packed + shape.sub_scales + g * bytes.sub_scales,
      packed + shape.offsets + g * bytes.offsets,
      packed + shape.sub_offsets + g * bytes.sub_offsets,
      packed + shape.factors + g * bytes.factors,
  };
}

Planes<int64_t> group_bytes(const PackedShape& shape) {
  const PackedFormat& format = shape.format;
  Planes<int64_t> bytes;
  if (format.has_factor) bytes.factors = 32;
  switch (format.layout) {
    case Layout::kP4:
      bytes.codes = shape.units() * 128;
      break;
    case Layout::kP6:
      bytes.codes = shape.units() * 128;
      bytes.high = shape.units() * 64;
      break;
    case Layout::kP8:
      bytes.codes = shape.units() * 256;
      break;
    case Layout::kPF:
      bytes.codes = row_bytes(format.element, shape.float_inputs() * 8);
      return bytes;
    case Layout::kF8:
      bytes.codes = shape.float_inputs() * 8;
      break;
  }
  switch (format.scale) {
    case ScaleKind::kNone:
      break;
    case ScaleKind::kF16:
    case ScaleKind::kBF16:
      bytes.scales = shape.blocks() * 16;
      break;
    case ScaleKind::kF32:
      bytes.scales = shape.blocks() * 32;
      break;
    case ScaleKind::kE8M0:
    case ScaleKind::kE4M3:
      bytes.scales = shape.blocks() * 8;
      break;
    case ScaleKind::kTwoLevelU8:
    case ScaleKind::kTwoLevelI8:
      bytes.scales = shape.supers() * 16;
      bytes.sub_scales = shape.blocks() * 8;
      break;
  }
  switch (format.offset) {
    case OffsetKind::kNone:
      break;
    case OffsetKind::kF16:
      bytes.offsets = shape.blocks() * 16;
      break;
    case OffsetKind::kTwoLevelU8:
      bytes.offsets = shape.supers() * 16;
      bytes.sub_offsets = shape.blocks() * 8;
      break;
    case OffsetKind::kZeroPoint:
      bytes.offsets = shape.blocks() * 8;
      break;
    case OffsetKind::kZeroOfRow:
      bytes.offsets = 8;
      break;
  }
  return bytes;
}

PackedShape packed_shape(const PackedFormat& format, int64_t n, int64_t k) {
  HOTSET_CHECK(n > 0 && k > 0, "a matrix has rows and columns");
  HOTSET_CHECK(format.is_float() || k % 32 == 0, "only float rows may end inside a unit of 32");
  PackedShape shape;
  shape.format = format;
  shape.n = n;
  shape.k = k;
  const Planes<int64_t> group = group_bytes(shape);
  const auto place = [&shape](int64_t bytes_per_group) {
    const int64_t at = shape.bytes;
    shape.bytes = round_up(at + bytes_per_group * shape.groups(), kPlaneAlignment);
    return at;
  };
  shape.codes = place(group.codes);
  shape.high = place(group.high);
  shape.scales = place(group.scales);
  shape.sub_scales = place(group.sub_scales);
  shape.offsets = place(group.offsets);
  shape.sub_offsets = place(group.sub_offsets);
  shape.factors = place(group.factors);
  shape.order = shape.bytes;
  if (format.has_order) shape.bytes = round_up(shape.bytes + 4 * k, kPlaneAlignment);
  return shape;
}

void pack_rows(const PackedShape& shape, TensorType source_type, const std::byte* source,
               int64_t source_stride, int64_t first_row, int64_t rows, std::byte* packed) {
  HOTSET_CHECK(first_row % 8 == 0 && first_row >= 0, "packing starts at a row group");
  HOTSET_CHECK(rows >= 0 && first_row + rows <= shape.n, "rows lie inside the matrix");
  HOTSET_CHECK(rows % 8 == 0 || first_row + rows == shape.n, "only the last group is short");
  HOTSET_CHECK(shape.k % info(source_type).block_size == 0, "a row is a whole number of blocks");
  HOTSET_CHECK(packs_into(source_type, shape.format), "the layout does not fit the source type");
  const Planes<int64_t> bytes = group_bytes(shape);
  for (int64_t row = first_row; row < first_row + rows; row += 8) {
    const RowGroup group = {source + (row - first_row) * source_stride, source_stride,
                            static_cast<int>(std::min<int64_t>(8, first_row + rows - row))};
    // One row after the other, so that DRAM is read in order here and the interleaving below
    // finds all 8 rows in the cache.
    for (int r = 0; r < group.rows; ++r) {
      const int64_t bad = first_not_finite(source_type, group.row(r), shape.k);
      if (bad >= 0) refuse_not_finite(source_type, row + r, bad);
    }
    const Planes<std::byte*> out = group_planes(shape, row / 8, packed);
    if (group.rows < 8) clear_group(out, bytes);
    if (shape.format.is_float()) {
      pack_float_group(shape, source_type, group, out);
    } else {
      pack_block_group(shape, source_type, group, out);
    }
  }
}

ExpertShape expert_shape(const PackedShape& gate, const PackedShape& up, const PackedShape& down) {
  HOTSET_CHECK(gate.n == up.n && gate.k == up.k && down.n == gate.k && down.k == gate.n,
               "gate and up are [I, H], down is [H, I]");
  ExpertShape shape = {gate, up, down};
  shape.gate_at = 0;
  shape.up_at = gate.bytes;
  shape.down_at = shape.up_at + up.bytes;
  shape.bytes = round_up(shape.down_at + down.bytes, kExpertAlignment);
  return shape;
}

ExpertView expert_view(const ExpertShape& shape, const std::byte* blob) {
  return {{shape.gate, blob + shape.gate_at},
          {shape.up, blob + shape.up_at},
          {shape.down, blob + shape.down_at}};
}

}  // namespace hotset
