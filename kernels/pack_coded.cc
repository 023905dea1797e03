// Packing of coded rows (coded_rows.h) into P4, P8 and F8: one code for all quantised checkpoints.
#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "kernels/check.h"
#include "kernels/coded_rows.h"
#include "kernels/pack_unit.h"

namespace hotset {

// Of coded_rows.cc: what a float table's integers are multiples of, and what multiplies a row.
float table_unit(const CodedForm& form);
float row_factor(const CodedForm& form, float scale, float factor);

namespace {

[[noreturn]] void refuse(int64_t row, int64_t column) {
  throw Error("row " + std::to_string(row) + ", column " + std::to_string(column) +
              ": found a weight that is not finite, expected finite numbers; the file is damaged: "
              "fetch it again");
}

// e4m3 bits of a float that is an e4m3 number.
uint8_t e4m3_bits(float value) {
  const auto bits = std::bit_cast<uint32_t>(value * 0x1p-120f);
  return static_cast<uint8_t>(bits >> 24 & 0x80) | static_cast<uint8_t>(bits >> 20 & 0x7f);
}

template <Layout kLayout>
void pack_units(const uint8_t* codes, int64_t units, int64_t r, std::byte* out) {
  constexpr int kBytes = kLayout == Layout::kP8 ? 256 : 128;
  for (int64_t u = 0; u < units; ++u) {
    const auto* at = reinterpret_cast<const std::byte*>(codes + u * 32);
    write_unit<kLayout>({load<Words>(at), load<Words>(at + 16)}, r, out + u * kBytes, nullptr);
  }
}

// Element j of the 8 rows together.
void pack_bytes(const uint8_t* codes, int64_t k, int64_t r, int64_t row, std::byte* out) {
  for (int64_t j = 0; j < k; ++j) {
    if ((codes[j] & 0x7f) == 0x7f) refuse(row, j);
    out[j * 8 + r] = std::byte{codes[j]};
  }
}

struct Scales {
  const CodedForm& form;
  ScaleKind kind;
  float per_unit;  // of a table in two planes

  void store_at(int64_t i, float scale, std::byte* out) const {
    switch (kind) {
      case ScaleKind::kF16:
        return store(out + i * 2, float_to_half(scale));
      case ScaleKind::kBF16:
        return store(out + i * 2, float_to_bf16(scale));
      case ScaleKind::kF32:
        return store(out + i * 4, scale / per_unit);
      case ScaleKind::kE8M0:  // 2^(e - 127), subnormal for e = 0
        return store(out + i, static_cast<uint8_t>(std::bit_cast<uint32_t>(scale) >> 23));
      case ScaleKind::kE4M3:
        return store(out + i, e4m3_bits(scale));
      case ScaleKind::kNone:
      case ScaleKind::kTwoLevelU8:
      case ScaleKind::kTwoLevelI8:
        break;
    }
  }

  void pack(const PackedShape& shape, const CodedRows& row, int64_t r, int64_t row_index,
            const Planes<std::byte*>& out) const {
    const int64_t blocks = form.blocks(shape.k);
    const bool has_factors = form.factor != CodedForm::Factor::kNone;
    for (int64_t b = 0; b < blocks; ++b) {
      if (!std::isfinite(row.scales[b])) refuse(row_index, b * form.block);
      store_at(b * 8 + r, row.scales[b], out.scales);
    }
    if (shape.format.offset == OffsetKind::kZeroPoint) {
      for (int64_t b = 0; b < blocks; ++b) store(out.offsets + b * 8 + r, row.zeros[b]);
    } else if (shape.format.offset == OffsetKind::kZeroOfRow) {
      store(out.offsets + r, form.has_zeros ? row.zeros[0] : static_cast<int8_t>(form.zero));
    }
    if (shape.format.has_factor) {
      const float factor = row_factor(form, row.scales[0], has_factors ? row.factors[0] : 1.0f);
      if (!std::isfinite(factor)) refuse(row_index, 0);
      store(out.factors + r * 4, factor);
    }
  }
};

}  // namespace

void pack_coded_rows(const PackedShape& shape, const CodedForm& form, const CodedRows& source,
                     int64_t first_row, int64_t rows, std::byte* packed) {
  HOTSET_CHECK(first_row % 8 == 0 && first_row >= 0, "packing starts at a row group");
  HOTSET_CHECK(rows >= 0 && first_row + rows <= shape.n, "rows lie inside the matrix");
  HOTSET_CHECK(rows % 8 == 0 || first_row + rows == shape.n, "only the last group is short");
  HOTSET_CHECK(shape.format == packed_format(form, shape.k), "the layout does not fit the form");
  const Layout layout = shape.format.layout;
  HOTSET_CHECK(layout != Layout::kPF, "floats are packed by pack_rows");
  const Planes<int64_t> bytes = group_bytes(shape);
  const Scales scales = {form, shape.format.scale,
                         shape.format.two_planes ? table_unit(form) : 1.0f};
  for (int64_t first = 0; first < rows; first += 8) {
    const Planes<std::byte*> out = group_planes(shape, (first_row + first) / 8, packed);
    const int64_t count = std::min<int64_t>(8, rows - first);
    if (count < 8 || shape.k % 8 != 0) clear_group(out, bytes);
    for (int64_t r = 0; r < count; ++r) {
      const CodedRows row = source.from_row(first + r, shape.k, form.blocks(shape.k));
      if (layout == Layout::kP8) {
        pack_units<Layout::kP8>(row.codes, shape.units(), r, out.codes);
      } else if (layout == Layout::kP4) {
        pack_units<Layout::kP4>(row.codes, shape.units(), r, out.codes);
      } else {
        pack_bytes(row.codes, shape.k, r, first_row + first + r, out.codes);
      }
      scales.pack(shape, row, r, first_row + first + r, out);
    }
  }
  if (shape.format.has_order && first_row == 0) {
    std::copy_n(source.order, shape.k, reinterpret_cast<uint32_t*>(packed + shape.order));
  }
}

}  // namespace hotset
