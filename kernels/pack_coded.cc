// Packing of coded rows (coded_rows.h) into P4, P8 and F8: one code for all quantised checkpoints.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "kernels/check.h"
#include "kernels/coded_rows.h"
#include "kernels/pack_unit.h"

namespace hotset {
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

// Codes [rows][k].
template <Layout kLayout>
void pack_units(const uint8_t* codes, int64_t rows, int64_t k, int64_t units, std::byte* out) {
  constexpr int kBytes = kLayout == Layout::kP8 ? 256 : 128;
  std::array<Codes, 8> unit = {};
  for (int64_t u = 0; u < units; ++u) {
    for (int64_t r = 0; r < rows; ++r) {
      const auto* at = reinterpret_cast<const std::byte*>(codes + r * k + u * 32);
      unit[r] = {load<Words>(at), load<Words>(at + 16)};
    }
    write_unit<kLayout>(unit, out + u * kBytes, nullptr);
  }
}

// A step of the transposition of 8 x 8 bytes: swaps the blocks off the diagonal.
void swap_blocks(uint64_t* rows, int distance, uint64_t mask) {
  for (int i = 0; i < 8; ++i) {
    if ((i & distance) != 0) continue;
    const uint64_t t = (rows[i] >> 8 * distance ^ rows[i + distance]) & mask;
    rows[i + distance] ^= t;
    rows[i] ^= t << 8 * distance;
  }
}

// Element j of the 8 rows together, 8 elements at a time: byte by byte it is a strided store each.
void pack_bytes(const uint8_t* codes, int64_t rows, int64_t k, int64_t first_row, std::byte* out) {
  constexpr uint64_t kNan = 0x7f7f7f7f7f7f7f7f, kOnes = 0x0101010101010101;
  for (int64_t j = 0; j < k; j += 8) {
    const auto count = static_cast<size_t>(std::min<int64_t>(8, k - j));
    uint64_t block[8] = {};
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(&block[r], codes + r * k + j, count);
      const uint64_t nan = (block[r] & kNan) ^ kNan;  // a byte of 0: e4m3's NaN
      if (((nan - kOnes) & ~nan & kOnes << 7) != 0) refuse(first_row + r, j);
    }
    swap_blocks(block, 4, 0x00000000ffffffff);
    swap_blocks(block, 2, 0x0000ffff0000ffff);
    swap_blocks(block, 1, 0x00ff00ff00ff00ff);
    std::memcpy(out + j * 8, block, sizeof block);
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
    if (count < 8) clear_group(out, bytes);
    const uint8_t* const codes = source.codes + first * shape.k;
    if (layout == Layout::kF8) {
      pack_bytes(codes, count, shape.k, first_row + first, out.codes);
    } else if (layout == Layout::kP8) {
      pack_units<Layout::kP8>(codes, count, shape.k, shape.units(), out.codes);
    } else if (layout == Layout::kP4) {
      pack_units<Layout::kP4>(codes, count, shape.k, shape.units(), out.codes);
    }
    for (int64_t r = 0; r < count; ++r) {
      const CodedRows row = source.from_row(first + r, shape.k, form.blocks(shape.k));
      scales.pack(shape, row, r, first_row + first + r, out);
    }
  }
  if (shape.format.has_order && first_row == 0) {
    std::copy_n(source.order, shape.k, reinterpret_cast<uint32_t*>(packed + shape.order));
  }
}

}  // namespace hotset
