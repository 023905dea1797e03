// Decoding one row of a packed matrix, straight from the layout's description in packed.h: the
// check on packers and kernels, so it shares nothing with either.
#include "kernels/check.h"
#include "kernels/coded_rows.h"
#include "kernels/formats/block_layout.h"
#include "kernels/packed.h"

namespace hotset {
namespace {

// One row of a packed matrix; `g` and `r` are its group and its place there.
struct Row {
  const PackedShape& shape;
  const std::byte* data;
  int64_t g, r;

  // Value i of this row in a plane that holds `per_row` values a row.
  template <class T>
  T value(int64_t plane, int64_t per_row, int64_t i) const {
    return load<T>(data + plane + ((g * per_row + i) * 8 + r) * static_cast<int64_t>(sizeof(T)));
  }

  uint8_t code_byte(int64_t plane, int64_t dwords, int64_t unit, int64_t dword, int64_t b) const {
    const auto word = value<uint32_t>(plane, shape.units() * dwords, unit * dwords + dword);
    return static_cast<uint8_t>(word >> 8 * b);
  }

  int weight(int64_t j) const {
    const PackedFormat& format = shape.format;
    const int64_t unit = j / 32, i = j % 32, b = i % 4;
    if (format.layout == Layout::kP8) {
      return static_cast<int8_t>(code_byte(shape.codes, 8, unit, i / 4, b)) - format.bias - zero(j);
    }
    const int64_t half = i / 16, d = i % 16 / 4;
    int code = code_byte(shape.codes, 4, unit, d, b) >> 4 * half & 15;
    if (format.layout == Layout::kP6) {
      const int64_t place = 2 * d + half;
      code |= (code_byte(shape.high, 2, unit, place / 4, b) >> 2 * (place % 4) & 3) << 4;
    }
    if (format.two_planes) return 256 * format.table[code] + format.low_table[code];
    return format.has_table ? format.table[code] : code - format.bias - zero(j);
  }

  int zero(int64_t j) const {
    const PackedFormat& format = shape.format;
    if (format.offset == OffsetKind::kZeroOfRow) return value<int8_t>(shape.offsets, 1, 0);
    if (format.offset != OffsetKind::kZeroPoint) return 0;
    return value<int8_t>(shape.offsets, shape.blocks(), j / format.block);
  }

  float half(int64_t plane, int64_t per_row, int64_t i) const {
    return half_to_float(value<uint16_t>(plane, per_row, i));
  }

  float scale(int64_t j) const {
    const int64_t blocks = shape.blocks();
    const int64_t block = shape.format.block == 0 ? 0 : j / shape.format.block;
    switch (shape.format.scale) {
      case ScaleKind::kNone:
        return 1.0f;
      case ScaleKind::kF16:
        return half(shape.scales, blocks, block);
      case ScaleKind::kE8M0:
        return e8m0_scale(value<uint8_t>(shape.scales, blocks, block));
      case ScaleKind::kTwoLevelU8:
        return half(shape.scales, shape.supers(), j / 256) *
               value<uint8_t>(shape.sub_scales, blocks, block);
      case ScaleKind::kTwoLevelI8:
        return half(shape.scales, shape.supers(), j / 256) *
               value<int8_t>(shape.sub_scales, blocks, block);
      case ScaleKind::kBF16:
        return bf16_to_float(value<uint16_t>(shape.scales, blocks, block));
      case ScaleKind::kF32:
        return value<float>(shape.scales, blocks, block);
      case ScaleKind::kE4M3:
        return 0.5f * e4m3_to_float(value<uint8_t>(shape.scales, blocks, block));
    }
    HOTSET_CHECK(false, "a ScaleKind that is none of its enumerators");
    return 0;
  }

  float with_offset(float product, int64_t j) const {
    const int64_t blocks = shape.blocks();
    const int64_t block = shape.format.block == 0 ? 0 : j / shape.format.block;
    switch (shape.format.offset) {
      case OffsetKind::kNone:
      case OffsetKind::kZeroPoint:  // part of the weight
      case OffsetKind::kZeroOfRow:
        return product;
      case OffsetKind::kF16:
        return product + half(shape.offsets, blocks, block);
      case OffsetKind::kTwoLevelU8:
        return product - half(shape.offsets, shape.supers(), j / 256) *
                             value<uint8_t>(shape.sub_offsets, blocks, block);
    }
    HOTSET_CHECK(false, "an OffsetKind that is none of its enumerators");
    return 0;
  }

  float element(int64_t j) const {
    if (shape.format.layout == Layout::kF8) {
      return e4m3_to_float(value<uint8_t>(shape.codes, shape.float_inputs(), j)) * scale(j);
    }
    switch (shape.format.element) {
      case TensorType::kF32:
        return value<float>(shape.codes, shape.float_inputs(), j);
      case TensorType::kF16:
        return half(shape.codes, shape.float_inputs(), j);
      case TensorType::kBF16:
        return bf16_to_float(value<uint16_t>(shape.codes, shape.float_inputs(), j));
      default:
        HOTSET_CHECK(false, "PF holds f32, f16 or bf16");
        return 0;
    }
  }
};

}  // namespace

void unpack_row(const PackedMatrix& matrix, int64_t row, float* out) {
  const PackedShape& shape = matrix.shape;
  HOTSET_CHECK(row >= 0 && row < shape.groups() * 8, "the row lies inside the padded matrix");
  const Row view = {shape, matrix.data, row / 8, row % 8};
  for (int64_t j = 0; j < shape.k; ++j) {
    const float weight =
        shape.format.is_float()
            ? view.element(j)
            : view.with_offset(view.scale(j) * static_cast<float>(view.weight(j)), j);
    out[matrix.order() != nullptr ? matrix.order()[j] : j] =
        shape.format.has_factor ? weight * view.value<float>(shape.factors, 1, 0) : weight;
  }
}

}  // namespace hotset
