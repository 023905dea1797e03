// Row dots of quantised matrices (P4, P6, P8) with quantised activations, by the numerics rule of
// docs/numerics.md: which kernel fits a matrix, and which instruction set a number of tokens. How
// units of weights meet tokens is in row_units.h, for a matrix unit in row_units_matrix.h.
#include "kernels/cpu/functions.h"
#ifdef HOTSET_ISA_amx
#include "kernels/cpu/row_units_matrix.h"
#else
#include "kernels/cpu/row_units.h"
#endif

namespace hotset::HOTSET_ISA {
namespace {

// Those of the first of Kinds that fits.
template <class... Kinds>
Kernels find_kernels(const PackedFormat& format) {
  Kernels found = {};
  const bool is_found = ((Kinds::fits(format) && (found = kernels_of<Kinds>, true)) || ...);
  if (!is_found) __builtin_trap();  // packed_format gives no other
  return found;
}

template <class Codes>
using Plain = Kind<Codes, 32, ScaleKind::kF16>;
template <class Codes>
using WithOffset = Kind<Codes, 32, ScaleKind::kF16, OffsetKind::kF16>;
template <class Codes>
using TwoLevel = Kind<Codes, 32, ScaleKind::kTwoLevelI8>;
template <class Codes>
using TwoLevel16 = Kind<Codes, 16, ScaleKind::kTwoLevelI8>;
template <class Codes>
using TwoLevelOffset = Kind<Codes, 32, ScaleKind::kTwoLevelU8, OffsetKind::kTwoLevelU8>;
template <class Codes>
using TwoLevelOffset16 = Kind<Codes, 16, ScaleKind::kTwoLevelU8, OffsetKind::kTwoLevelU8>;
template <class Codes>
using PowerOfTwo = Kind<Codes, 32, ScaleKind::kE8M0>;

// The kernels for a format, and the constants that go with it.
Kernels choose(const PackedFormat& format, Constants& constants) {
  int8_t table[16], low_table[16];
  std::memcpy(table, &format.table, sizeof(table));
  std::memcpy(low_table, &format.low_table, sizeof(low_table));
  int bias = format.bias;
  Kernels kernels;
  bool is_signed_table = false;
  if (format.layout == Layout::kP8) {
    bias = rows::kSignedBias;
    kernels = find_kernels<Plain<EightBits>, AnyBlock<EightBits, 1, true>>(format);
  } else if (format.layout == Layout::kP6) {
    kernels = find_kernels<Plain<SixBits>, WithOffset<SixBits>, TwoLevel16<SixBits>,
                           TwoLevelOffset<SixBits>>(format);
  } else if (!format.has_table) {
    kernels =
        find_kernels<Plain<Nibbles>, WithOffset<Nibbles>, TwoLevelOffset<Nibbles>,
                     TwoLevel16<Nibbles>, TwoLevelOffset16<Nibbles>, AnyBlock<Nibbles, 1, true>>(
            format);
  } else if (format.two_planes) {
    bias = rows::kWideBias;
    for (int i = 0; i < 16; ++i) {  // the low byte becomes unsigned
      const int entry = 256 * table[i] + low_table[i];
      table[i] = static_cast<int8_t>(entry >> 8);
      low_table[i] = static_cast<int8_t>(entry & 255);
    }
    kernels = find_kernels<AnyBlock<WideTableNibbles, 1, false>>(format);
  } else {
    int least = table[0], most = table[0];
    for (const int8_t value : table) {
      least = value < least ? value : least;
      most = value > most ? value : most;
    }
    if (most - least <= 63) {  // made unsigned, six bits suffice
      bias = -least;
      for (int8_t& value : table) value = static_cast<int8_t>(value - least);
      using Codes = TableNibbles<Range::kU6>;
      kernels = find_kernels<PowerOfTwo<Codes>, AnyBlock<Codes, 2, false>>(format);
    } else {
      bias = rows::kSignedBias;
      is_signed_table = true;
      using Codes = TableNibbles<Range::kSigned>;
      kernels = find_kernels<Plain<Codes>, TwoLevel<Codes>>(format);
    }
  }
  constants.table = rows::load_table(table);
  constants.low_table = rows::load_table(low_table);
  if (is_signed_table) constants.table = rows::prepare_signed(constants.table);
  const bool one_cell = format.block != 16;
  constants.bias[0] = rows::half_weights(-bias, one_cell ? -bias : 0);
  constants.bias[1] = rows::half_weights(0, -bias);
  constants.code_bias = static_cast<int8_t>(bias);
  return kernels;
}

}  // namespace

void row_dot_quantised(const RowDotArgs& args) {
  Constants constants;
  const Kernels kernels = choose(args.matrix.shape.format, constants);
  dot_rows(args, kernels, constants);
}

void row_dot(const RowDotArgs& args) {
  const Layout layout = args.matrix.shape.format.layout;
  if (layout == Layout::kPF || layout == Layout::kF8) {
    row_dot_float(args);
  } else if (args.tokens == 1 && !kReadsOneStream) {
    RowDotArgs one = args;
    one.leads_codes = rows::kTokenLeadsCodes;
    avx2::row_dot_quantised(one);
  } else if (args.tokens < rows::kTokensLeast || args.quantised.units > rows::kUnitsMost) {
    avx512vnni::row_dot_quantised(args);
  } else {
    row_dot_quantised(args);
  }
}

}  // namespace hotset::HOTSET_ISA
