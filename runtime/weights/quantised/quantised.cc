#include "runtime/weights/quantised/quantised.h"

#include <algorithm>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

std::byte* Scratch::take_bytes(int64_t bytes) {
  HOTSET_CHECK(bytes >= 0 && aligned(bytes) <= left_, "a reader said how much scratch it needs");
  std::byte* const taken = at_;
  at_ += aligned(bytes);
  left_ -= aligned(bytes);
  return taken;
}

int64_t QuantisedMatrix::bytes() const {
  int64_t sum = 0;
  for (const TensorInfo* tensor : tensors_) sum += static_cast<int64_t>(tensor->bytes);
  return sum;
}

// Each tensor's share of the rows, widened by the words that a window may begin and end in, or
// all of a small one that has no rows; and a few values for each column.
int64_t QuantisedMatrix::scratch_bytes(int64_t rows) const {
  constexpr int64_t kSmall = 4096;
  int64_t sum = 20 * k_ + 16 * kAlignment;
  for (const TensorInfo* tensor : tensors_) {
    const auto all = static_cast<int64_t>(tensor->bytes);
    const int64_t share = all / n_ + 1;
    sum += std::min(all, share * (rows + 32)) + std::min(all, kSmall) + kAlignment;
  }
  return sum + rows * (4 * form_.blocks(k_) + kAlignment);
}

int64_t CodedBuffer::bytes(const QuantisedMatrix& matrix, int64_t rows) {
  const int64_t blocks = matrix.form().blocks(matrix.k());
  return aligned(rows * matrix.k()) + aligned(rows * blocks * 4) + aligned(rows * blocks) +
         aligned(rows * 4) + aligned(matrix.k() * 4) + matrix.scratch_bytes(rows) + kAlignment;
}

CodedBuffer::CodedBuffer(const QuantisedMatrix& matrix, int64_t rows_count, std::byte* memory)
    : scratch(memory, bytes(matrix, rows_count)) {
  const int64_t blocks = matrix.form().blocks(matrix.k());
  rows.codes = scratch.take<uint8_t>(rows_count * matrix.k()).data();
  rows.scales = scratch.take<float>(rows_count * blocks).data();
  rows.zeros = scratch.take<int8_t>(rows_count * blocks).data();
  rows.factors = scratch.take<float>(rows_count).data();
  rows.order = scratch.take<uint32_t>(matrix.k()).data();
}

void dequantise_rows(const QuantisedMatrix& matrix, int64_t first_row, int64_t rows, float* out) {
  std::vector<std::byte> memory(static_cast<size_t>(CodedBuffer::bytes(matrix, rows)));
  CodedBuffer buffer(matrix, rows, memory.data());
  matrix.read(first_row, rows, buffer.rows, buffer.scratch);
  dequantise_coded(matrix.form(), buffer.rows, rows, matrix.k(), out);
}

}  // namespace hotset
