// Opening a model of any container, and reading rows of its matrices (see model_description.h).
#include "runtime/weights/model_description.h"

#include <filesystem>

#include "kernels/check.h"
#include "runtime/weights/describe.h"

namespace hotset {

uint64_t ModelDescription::file_bytes() const {
  uint64_t sum = 0;
  for (const File* file : files) sum += file->size();
  return sum;
}

ModelDescription open_model(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    throw Error(path +
                ": there is no such file or folder, expected a .gguf file or a Hugging Face "
                "folder");
  }
  return std::filesystem::is_directory(path, error) ? describe_hf(path) : describe_gguf(path);
}

namespace {

// Calls body(file, offset, bytes) for the pieces of rows [first_row, first_row + rows), in order.
template <class Body>
void for_each_piece(const MatrixSource& matrix, int64_t first_row, int64_t rows, Body body) {
  HOTSET_CHECK(first_row >= 0 && rows >= 0 && first_row + rows <= matrix.n, "rows of the matrix");
  const int64_t stride = row_bytes(matrix.type, matrix.k);
  int64_t range_first = 0;  // the matrix's row that the range starts with
  for (const RowRange& range : matrix.rows) {
    if (rows == 0) return;
    const int64_t skip = first_row - range_first;
    range_first += range.rows;
    if (skip >= range.rows) continue;
    const int64_t now = std::min(rows, range.rows - skip);
    const auto at = static_cast<uint64_t>((range.first_row + skip) * stride);
    body(*range.tensor->file, range.tensor->offset + at, static_cast<size_t>(now * stride));
    first_row += now;
    rows -= now;
  }
}

}  // namespace

void read_rows(const MatrixSource& matrix, int64_t first_row, int64_t rows,
               std::span<std::byte> out) {
  HOTSET_CHECK(static_cast<int64_t>(out.size()) == rows * row_bytes(matrix.type, matrix.k),
               "out holds exactly the rows");
  for_each_piece(matrix, first_row, rows, [&](const File& file, uint64_t offset, size_t bytes) {
    file.read(offset, out.first(bytes));
    out = out.subspan(bytes);
  });
}

void expect_rows(const MatrixSource& matrix, int64_t first_row, int64_t rows) {
  for_each_piece(matrix, first_row, rows, [](const File& file, uint64_t offset, size_t bytes) {
    file.expect(offset, bytes);
  });
}

}  // namespace hotset
