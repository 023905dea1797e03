#include "runtime/model/pack_matrix.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"
#include "runtime/weights/quantised/quantised.h"

namespace hotset {
namespace {

bool is_coded(const MatrixSource& source) {
  return source.quantised != nullptr && packed_format(source).layout != Layout::kPF;
}

// A checkpoint's own scheme: rows go through the neutral form.
void pack_coded(const MatrixSource& m, const PackedShape& shape, int64_t first, int64_t rows,
                std::byte* staging, std::byte* packed) {
  const QuantisedMatrix& quantised = *m.quantised;
  CodedBuffer buffer(quantised, rows, staging);
  const int64_t blocks = quantised.form().blocks(m.k);
  int64_t done = 0;
  for_each_range(m, first, rows, [&](const RowRange& range) {
    Scratch scratch = buffer.scratch;  // each range may use it from the start
    quantised.read(range.first_row, range.rows, buffer.rows.from_row(done, m.k, blocks), scratch);
    done += range.rows;
  });
  pack_coded_rows(shape, quantised.form(), buffer.rows, first, rows, packed);
}

void pack_stored(const MatrixSource& m, const PackedShape& shape, int64_t first, int64_t rows,
                 std::byte* staging, std::byte* packed) {
  const int64_t stride = row_bytes(m.type, m.k);
  read_rows(m, first, rows, {staging, static_cast<size_t>(rows * stride)});
  pack_rows(shape, m.type, staging, stride, first, rows, packed);
}

}  // namespace

PackedFormat packed_format(const MatrixSource& source, bool exact_in_bf16) {
  if (source.as_float) return packed_format(TensorType::kF32);
  if (source.quantised != nullptr) return packed_format(source.quantised->form(), source.k);
  return packed_format(source.type, exact_in_bf16);
}

int64_t staging_bytes(const MatrixSource& source, int64_t rows) {
  return is_coded(source) ? CodedBuffer::bytes(*source.quantised, rows)
                          : rows * row_bytes(source.type, source.k);
}

int64_t window_rows(const MatrixSource& source) {
  constexpr int64_t kWindowBytes = 4 << 20;  // read or decoded at once
  const int64_t row = is_coded(source) ? source.k : row_bytes(source.type, source.k);
  return std::max<int64_t>(8, kWindowBytes / row / 8 * 8);
}

void pack_window(const MatrixSource& m, const PackedShape& shape, int64_t first, int64_t rows,
                 std::byte* staging, std::byte* packed) {
  try {
    if (shape.format.layout != Layout::kPF && is_coded(m)) {
      pack_coded(m, shape, first, rows, staging, packed);
    } else {
      pack_stored(m, shape, first, rows, staging, packed);
    }
  } catch (const Error& e) {
    const std::string& path = m.rows.front().tensor->file->path();
    if (std::string_view(e.what()).starts_with(path)) throw;  // it names the file itself
    throw Error(fmt::format("{}: tensor {}: {}", path, m.name, e.what()));
  }
}

void pack_matrix(const MatrixSource& source, const PackedShape& shape, std::byte* staging,
                 std::byte* packed) {
  pack_window(source, shape, 0, source.n, staging, packed);
}

}  // namespace hotset
