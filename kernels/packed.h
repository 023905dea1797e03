// Packed layouts: the few forms that every source type is turned into, and that all kernels read.
//
// A matrix W is [n, k] (n outputs, k inputs). Rows are interleaved in groups of 8 (n is padded to 8
// with rows of zero bytes), inputs come in units of 32: k is a multiple of 32 (two-level scales: of
// 256), but for PF, where any k goes and the plane holds k padded with zeros to a multiple of 8. A
// matrix is a few planes, each starting at a multiple of 64 bytes from the matrix's start. In every
// plane row group g comes first, then the unit (or block) along k, then the 8 rows.
//
//   codes   P4: 128 B a unit: dword d (0..3) of each of the 8 rows in turn; byte b of a row's dword
//               d holds element 4d+b in its low nibble and 16+4d+b in its high one
//           P6: the P4 plane with the low 4 bits, and `high`: 64 B a unit: dword e (0..1) of each
//               of the 8 rows; byte b of dword e holds in bits 2f..2f+1 the top 2 bits of the
//               element whose P4 place is (d, half), 2d + half = 4e + f
//           P8: 256 B a unit: dword d (0..7) of each of the 8 rows; byte b of dword d is element
//               4d+b, int8
//           PF: element j of the 8 rows together, j rising (bf16, f16 or f32); F8 likewise (e4m3)
//   scales  one value per block and row (f16, bf16, f32, e8m0, e4m3), or one f16 per 256 inputs and
//           row (`scales`) and one u8/i8 per block and row (`sub_scales`)
//   offsets likewise (f16; or f16 per 256 inputs and u8 per block); or the zero points, one i8 per
//           block and row or one i8 per row
//   factors one f32 per row
//   order   once per matrix, [k] u32: packed input j is input order[j] of the source (GPTQ's
//           act-order); whoever computes with the matrix gathers its activations so
//
// The decoded weight, in float32 and in this order (`q` an integer, products left to right):
//   P4/P6/P8: ((scale [* sub_scale]) * (code - bias - zero or table[code])) [- or +] offset
//             [* factor]
//   PF: the element;   F8: element [* scale] [* factor]
// equals dequantise_row's value (block types) bit for bit (-0 counts as 0); for coded sources see
// coded_rows.h. Owner: whoever allocated the bytes; these types are only views.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/formats/tensor_type.h"

namespace hotset {

// Which bytes a weight becomes. Raise it when a packed layout, an expert's blob or the order of the
// dense image changes: packed files that were written before (sidecars) are then made anew.
inline constexpr uint32_t kPackedVersion = 1;

enum class Layout : uint8_t { kP4, kP6, kP8, kPF, kF8 };

enum class ScaleKind : uint8_t {
  kNone,        // PF; or the scale is the row's, and so its factor
  kF16,         // f16 per block
  kE8M0,        // u8 e per block: 2^(e - 128)
  kTwoLevelU8,  // f16 per 256 inputs times u8 per block
  kTwoLevelI8,  // f16 per 256 inputs times i8 per block
  kBF16,        // bf16 per block
  kF32,         // f32 per block
  kE4M3,        // e4m3 per block, halved: the table is that of E2M1, doubled
};

enum class OffsetKind : uint8_t {
  kNone,
  kF16,         // + f16 per block
  kTwoLevelU8,  // - (f16 per 256 inputs * u8 per block)
  kZeroPoint,   // i8 per block, subtracted from the code
  kZeroOfRow,   // i8 per row, likewise
};

// What the codes of a matrix mean: a property of the tensor, the same for all of its rows.
struct PackedFormat {
  Layout layout = Layout::kPF;
  TensorType element = TensorType::kF32;  // PF only: kBF16, kF16 or kF32
  // Inputs a scale (and a zero point) covers: 16, 32, or a power of two above; 0: the row.
  int32_t block = 32;
  ScaleKind scale = ScaleKind::kNone;
  OffsetKind offset = OffsetKind::kNone;
  bool has_table = false;             // P4 only: value = table[code], else value = code - bias
  int8_t bias = 0;                    // P4, P6 without a table
  std::array<int8_t, 16> table = {};  // P4 with has_table
  // P4 with two_planes: value = 256 * table[code] + low_table[code], an int16.
  bool two_planes = false;
  std::array<int8_t, 16> low_table = {};
  bool has_factor = false, has_order = false;

  bool operator==(const PackedFormat&) const = default;
  // Whether it takes float activations.
  bool is_float() const { return layout == Layout::kPF || layout == Layout::kF8; }
};

// The layout a source type is packed into. `all_bf16`: PF source whose every value is exact in
// bf16.
PackedFormat packed_format(TensorType source, bool all_bf16 = false);

// Where the planes of an [n, k] matrix lie, in bytes from its start.
struct PackedShape {
  PackedFormat format;
  int64_t n = 0, k = 0;
  int64_t codes = 0, high = 0, scales = 0, sub_scales = 0, offsets = 0, sub_offsets = 0;
  int64_t factors = 0, order = 0;
  int64_t bytes = 0;  // a multiple of 64

  int64_t groups() const { return (n + 7) / 8; }
  int64_t units() const { return (k + 31) / 32; }
  int64_t blocks() const { return format.block == 0 ? 1 : (k + format.block - 1) / format.block; }
  int64_t supers() const { return (k + 255) / 256; }
  int64_t float_inputs() const {
    return (k + 7) / 8 * 8;
  }  // PF, F8: inputs a row holds, padding too
};

PackedShape packed_shape(const PackedFormat& format, int64_t n, int64_t k);

// One value for each plane of a packed matrix, in the order in which the planes lie.
template <class T>
struct Planes {
  T codes = {}, high = {}, scales = {}, sub_scales = {}, offsets = {}, sub_offsets = {};
  T factors = {};
};

// Bytes that one row group takes in each plane; 0 where the format has no such plane.
Planes<int64_t> group_bytes(const PackedShape& shape);

// A view of a packed matrix; `data` is aligned to 64 bytes.
struct PackedMatrix {
  PackedShape shape;
  const std::byte* data = nullptr;

  const uint32_t* order() const {  // [k]; null: the source's
    return shape.format.has_order ? reinterpret_cast<const uint32_t*>(data + shape.order) : nullptr;
  }
};

// Packs rows [first_row, first_row + rows) of a matrix: `source` points at row first_row in the
// file's form, rows lie `source_stride` bytes apart. first_row is a multiple of 8; rows is one too
// unless it ends the matrix. Threads may pack different row groups of one matrix at once. Throws
// Error (row and block index, not the tensor's name, which the caller adds) if a block's scale or a
// float element is not finite. `shape.format` is packed_format of the source type, or PF in f32,
// which every source type can be decoded into (routers compute in floats whatever the file stores).
void pack_rows(const PackedShape& shape, TensorType source_type, const std::byte* source,
               int64_t source_stride, int64_t first_row, int64_t rows, std::byte* packed);

// Decodes row `row` of a packed matrix to k floats, in the source's order: slow, for tests and
// inspection.
void unpack_row(const PackedMatrix& matrix, int64_t row, float* out);

// One expert: gate | up | down planes in one blob, each at a multiple of 64 bytes, the blob padded
// to 256.
struct ExpertShape {
  PackedShape gate, up, down;  // [I, H], [I, H], [H, I]
  int64_t gate_at = 0, up_at = 0, down_at = 0, bytes = 0;
};
ExpertShape expert_shape(const PackedShape& gate, const PackedShape& up, const PackedShape& down);

struct ExpertView {
  PackedMatrix gate, up, down;
};
ExpertView expert_view(const ExpertShape& shape, const std::byte* blob);

}  // namespace hotset
