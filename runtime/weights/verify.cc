// Reading every weight of a model once to see that it is finite (see verify.h).
#include "runtime/weights/verify.h"

#include <algorithm>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr int64_t kWindowBytes = 4 << 20;

void verify_range(const RowRange& range, std::vector<std::byte>& window) {
  const TensorInfo& tensor = *range.tensor;
  const int64_t row_length = tensor.row_length(), stride = row_bytes(tensor.type, row_length);
  const int64_t blocks_a_row = row_length / info(tensor.type).block_size;
  const int64_t rows_at_once = std::max<int64_t>(1, kWindowBytes / stride);
  for (int64_t done = 0; done < range.rows;) {
    const int64_t rows = std::min(rows_at_once, range.rows - done), first = range.first_row + done;
    window.resize(static_cast<size_t>(rows * stride));
    tensor.file->read(tensor.offset + static_cast<uint64_t>(first * stride), window);
    const int64_t bad = first_not_finite(tensor.type, window.data(), rows * row_length);
    if (bad >= 0) {
      throw Error(tensor.file->path() + ": tensor " + tensor.name + ": block " +
                  std::to_string(first * blocks_a_row + bad) + " (row " +
                  std::to_string(first + bad / blocks_a_row) + ") is not finite; the file is " +
                  "damaged: fetch it again");
    }
    done += rows;
  }
}

// A quantised module's rows, decoded; its reader names a scale that is not finite itself.
void verify_quantised(const MatrixSource& matrix) {
  const int64_t at_once = std::max<int64_t>(1, kWindowBytes / 4 / matrix.k);
  std::vector<float> values;
  for (int64_t first = 0; first < matrix.n; first += at_once) {
    const int64_t rows = std::min(at_once, matrix.n - first);
    values.resize(static_cast<size_t>(rows * matrix.k));
    read_rows(matrix, first, rows, std::as_writable_bytes(std::span(values)));
    const int64_t bad = first_not_finite(TensorType::kF32, values.data(), rows * matrix.k);
    if (bad < 0) continue;
    throw Error(matrix.rows.front().tensor->file->path() + ": tensor " + matrix.name + ": row " +
                std::to_string(first + bad / matrix.k) + ", column " +
                std::to_string(bad % matrix.k) + " is not finite; the file is damaged: fetch it " +
                "again");
  }
}

}  // namespace

void verify_weights(const ModelDescription& model, const VerifyProgress& progress) {
  uint64_t total = 0, done = 0;
  for_each_matrix(model, [&](const MatrixSource& m) { total += static_cast<uint64_t>(m.bytes()); });
  std::vector<std::byte> window;
  for_each_matrix(model, [&](const MatrixSource& matrix) {
    if (matrix.quantised != nullptr) {
      verify_quantised(matrix);
    } else {
      for (const RowRange& range : matrix.rows) verify_range(range, window);
    }
    done += static_cast<uint64_t>(matrix.bytes());
    if (progress) progress(done, total);
  });
}

}  // namespace hotset
