// Coded rows: the neutral form that readers of quantised checkpoints (runtime/weights/quantised)
// bring their tensors into, and that is packed from here on by one code. A reader yields a code a
// byte and float32 scales; what the numbers mean is a CodedForm, from which the packed layout
// follows. So a new source format needs no packer and no kernel.
//
// The weight a code stands for, every operation rounded to float32:
//   value(code) * scale     value: code - zero | table[code] | the e4m3 number
// where `factor` first multiplies or divides the scale, or multiplies the product at last.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/packed.h"

namespace hotset {

// How the file stores scales: which packed scales hold them exactly.
enum class ScaleType : uint8_t { kF16, kBF16, kF32, kE4M3, kE8M0 };

struct CodedForm {
  enum class Values : uint8_t {
    kInteger,  // code - zero: codes of at most 4 bits unsigned, of 8 bits int8
    kTable,    // 16 floats
    kE4M3,     // float8_e4m3fn
  };
  enum class Factor : uint8_t { kNone, kScaleTimes, kScaleOver, kProductTimes };

  Values values = Values::kInteger;
  int bits = 4;       // kInteger: at most 4, or 8
  int64_t block = 0;  // inputs a scale covers, the last block may be short; 0: the row
  ScaleType scale = ScaleType::kF32;
  Factor factor = Factor::kNone;
  bool has_zeros = false;  // a zero point beside each scale; else all are `zero`
  int zero = 0;
  bool has_order = false;
  std::array<float, 16> table = {};

  bool operator==(const CodedForm&) const = default;
  int64_t blocks(int64_t k) const { return block == 0 ? 1 : (k + block - 1) / block; }
};

// Rows in this form. Where the form has an order, columns (and so blocks) are in it.
struct CodedRows {
  uint8_t* codes = nullptr;   // [rows][k]
  float* scales = nullptr;    // [rows][blocks], finite
  int8_t* zeros = nullptr;    // [rows][blocks], if has_zeros
  float* factors = nullptr;   // [rows], if there is a factor
  uint32_t* order = nullptr;  // [k], if has_order: the source's column of each column

  CodedRows from_row(int64_t row, int64_t k, int64_t blocks) const {
    return {codes + row * k, scales + row * blocks, zeros + row * blocks, factors + row, order};
  }
};

// How near a packed weight is to the source's.
struct Grade {
  enum class Kind : uint8_t { kExact, kRounded, kApproximate } kind = Kind::kExact;
  double bound = 0;  // kApproximate: largest error over the block's largest weight
};

// The layout that rows of k inputs are packed into: f32 PF where no other holds them.
PackedFormat packed_format(const CodedForm& form, int64_t k);
Grade packed_grade(const CodedForm& form, int64_t k);

// Packs rows [first_row, first_row + rows): as pack_rows of packed.h does, and with its conditions.
// Not for PF: decode and use that one. The order is written with row 0. Throws Error (with row and
// column) if a weight is not finite.
void pack_coded_rows(const PackedShape& shape, const CodedForm& form, const CodedRows& source,
                     int64_t first_row, int64_t rows, std::byte* packed);

// Decodes to [rows][k] in the source's column order, by the source's formula.
void dequantise_coded(const CodedForm& form, const CodedRows& source, int64_t rows, int64_t k,
                      float* out);

// e4m3fn to float32; NaN for 0x7f and 0xff.
float e4m3_to_float(uint8_t bits);

}  // namespace hotset
