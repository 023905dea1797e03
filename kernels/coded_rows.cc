// What coded rows mean, and which layout holds them (see coded_rows.h).
#include "kernels/coded_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/pack_unit.h"

namespace hotset {
namespace {

using Values = CodedForm::Values;

// A float table as two planes of bytes: entry = table * `per_unit`, rounded, = 256 * high + low.
struct TwoPlanes {
  std::array<int8_t, 16> high = {}, low = {};
  float per_unit = 1;
  double error = 0;  // largest, over the largest entry
};

TwoPlanes split_table(const std::array<float, 16>& table, double most_as) {
  float most = 0;
  for (const float value : table) most = std::max(most, std::abs(value));
  TwoPlanes planes;
  if (most == 0) return planes;
  planes.per_unit = static_cast<float>(most_as / most);
  for (size_t i = 0; i < table.size(); ++i) {
    const double exact = static_cast<double>(table[i]) * planes.per_unit;
    const auto entry = static_cast<int>(std::lrint(exact));
    planes.low[i] = static_cast<int8_t>(entry & 255);
    planes.high[i] = static_cast<int8_t>((entry - planes.low[i]) / 256);
    planes.error = std::max(planes.error, std::abs(entry - exact) / most_as);
  }
  return planes;
}

// bitsandbytes' FP4 entries are multiples of 1/192 of the largest; other tables get all the bits
// that two signed bytes have, 127 * 256.
TwoPlanes split_table(const std::array<float, 16>& table) {
  constexpr double kRoundingOfTable = 1e-7;  // the entries themselves are rounded to float32
  const TwoPlanes planes = split_table(table, 192);
  return planes.error < kRoundingOfTable ? planes : split_table(table, 32512);
}

// Twice the table, if that is E2M1's integers.
bool doubled(const std::array<float, 16>& table, std::array<int8_t, 16>& out) {
  for (size_t i = 0; i < table.size(); ++i) {
    const float twice = 2 * table[i];
    if (twice != std::rint(twice) || std::abs(twice) > 31) return false;
    out[i] = static_cast<int8_t>(twice);
  }
  return true;
}

bool is_power_of_two_units(int64_t block) {
  return block % 32 == 0 && std::has_single_bit(static_cast<uint64_t>(block)) && block <= 1 << 20;
}

ScaleKind scale_kind(ScaleType type) {
  switch (type) {
    case ScaleType::kF16:
      return ScaleKind::kF16;
    case ScaleType::kBF16:
      return ScaleKind::kBF16;
    case ScaleType::kE4M3:
      return ScaleKind::kE4M3;
    case ScaleType::kE8M0:
      return ScaleKind::kE8M0;
    case ScaleType::kF32:
      break;
  }
  return ScaleKind::kF32;
}

PackedFormat float_format() {
  return packed_format(TensorType::kF32);
}

PackedFormat e4m3_format(const CodedForm& form) {
  PackedFormat format;
  format.layout = Layout::kF8;
  format.block = 0;
  format.has_factor = true;
  if (form.block == 0) return format;
  if (form.block % 8 != 0 || form.block > 1 << 20) return float_format();
  format.block = static_cast<int32_t>(form.block);
  format.scale = ScaleKind::kF32;
  format.has_factor = false;
  return format;
}

PackedFormat table_format(const CodedForm& form) {
  PackedFormat format;
  format.layout = Layout::kP4;
  format.has_table = true;
  format.block = static_cast<int32_t>(form.block);
  format.scale = scale_kind(form.scale);
  const bool is_e8m0 = form.scale == ScaleType::kE8M0 && form.block == 32;
  const bool is_e4m3 = form.scale == ScaleType::kE4M3 && form.block == 16;
  if ((is_e8m0 || is_e4m3) && doubled(form.table, format.table)) {
    format.has_factor = form.factor != CodedForm::Factor::kNone;
    return format;
  }
  if (form.scale != ScaleType::kF32 || !is_power_of_two_units(form.block)) return float_format();
  const TwoPlanes planes = split_table(form.table);
  format.two_planes = true;
  format.table = planes.high;
  format.low_table = planes.low;
  return format;
}

PackedFormat integer_format(const CodedForm& form) {
  PackedFormat format;
  format.layout = form.bits == 8 ? Layout::kP8 : Layout::kP4;
  if (form.block == 0) {
    format.block = 0;
    format.has_factor = true;
  } else {
    if (!is_power_of_two_units(form.block) || form.factor != CodedForm::Factor::kNone) {
      return float_format();
    }
    format.block = static_cast<int32_t>(form.block);
    format.scale = scale_kind(form.scale);
  }
  format.offset =
      form.has_zeros && form.block > 0 ? OffsetKind::kZeroPoint : OffsetKind::kZeroOfRow;
  return format;
}

float effective_scale(const CodedForm& form, float scale, float factor) {
  if (form.factor == CodedForm::Factor::kScaleTimes) return scale * factor;
  if (form.factor == CodedForm::Factor::kScaleOver) return scale / factor;
  return scale;
}

}  // namespace

float e4m3_to_float(uint8_t bits) {
  if ((bits & 0x7f) == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  const uint32_t moved = uint32_t{bits & 0x80u} << 24 | uint32_t{bits & 0x7fu} << 20;
  return std::bit_cast<float>(moved) * 0x1p120f;  // the exponent's bias is 7, not 127
}

PackedFormat packed_format(const CodedForm& form, int64_t k) {
  PackedFormat format;
  if (form.values == Values::kE4M3) {
    format = e4m3_format(form);
  } else if (k % 32 != 0) {
    return float_format();
  } else {
    format = form.values == Values::kTable ? table_format(form) : integer_format(form);
  }
  format.has_order = form.has_order && format.layout != Layout::kPF;
  return format;
}

Grade packed_grade(const CodedForm& form, int64_t k) {
  const PackedFormat format = packed_format(form, k);
  if (format.layout == Layout::kPF) return {};
  if (format.two_planes) {
    const TwoPlanes planes = split_table(form.table);
    if (planes.per_unit < 1000) return {Grade::Kind::kRounded, 0};
    return {Grade::Kind::kApproximate, planes.error};
  }
  if (form.factor != CodedForm::Factor::kNone) return {Grade::Kind::kRounded, 0};
  return {};
}

float table_unit(const CodedForm& form) {
  return split_table(form.table).per_unit;
}

float row_factor(const CodedForm& form, float scale, float factor) {
  const float row_scale = form.block == 0 ? scale : 1.0f;
  switch (form.factor) {
    case CodedForm::Factor::kNone:
      return row_scale;
    case CodedForm::Factor::kScaleOver:
      return row_scale / factor;
    case CodedForm::Factor::kScaleTimes:
    case CodedForm::Factor::kProductTimes:
      return row_scale * factor;
  }
  return row_scale;
}

void dequantise_coded(const CodedForm& form, const CodedRows& source, int64_t rows, int64_t k,
                      float* out) {
  const int64_t blocks = form.blocks(k), block = form.block == 0 ? k : form.block;
  const bool is_byte = form.bits == 8;
  const bool multiplies_last = form.factor == CodedForm::Factor::kProductTimes;
  for (int64_t r = 0; r < rows; ++r) {
    const CodedRows row = source.from_row(r, k, blocks);
    for (int64_t j = 0; j < k; ++j) {
      const int64_t b = j / block;
      const uint8_t code = row.codes[j];
      float value = 0;
      if (form.values == Values::kTable) {
        value = form.table[code & 15];
      } else if (form.values == Values::kE4M3) {
        value = e4m3_to_float(code);
      } else {
        const int zero = form.has_zeros ? row.zeros[b] : form.zero;
        value = static_cast<float>((is_byte ? static_cast<int8_t>(code) : code) - zero);
      }
      const float factor = form.factor == CodedForm::Factor::kNone ? 1.0f : row.factors[0];
      value *= effective_scale(form, row.scales[b], factor);
      if (multiplies_last) value *= factor;
      out[r * k + (form.has_order ? row.order[j] : j)] = value;
    }
  }
}

}  // namespace hotset
