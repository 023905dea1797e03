// Reading and packing of the dense weights: matrices are cut into windows of whole row groups,
// which oneTBB reads and packs in parallel.
#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>

#include "kernels/check.h"
#include "runtime/model/dense_layout.h"
#include "runtime/model/pack_matrix.h"
#include "runtime/model/sidecar.h"

namespace hotset {

namespace {

bool exact_in_bf16(const MatrixSource& m) {
  if (m.quantised != nullptr || m.as_float) return false;
  if (m.type != TensorType::kF32 && m.type != TensorType::kF16) return false;
  const int64_t most = std::min(window_rows(m), m.n);
  std::vector<std::byte> raw(static_cast<size_t>(most * row_bytes(m.type, m.k)));
  std::vector<float> values(static_cast<size_t>(most * m.k));
  for (int64_t first = 0; first < m.n; first += most) {
    const int64_t rows = std::min(most, m.n - first), count = rows * m.k;
    read_rows(m, first, rows,
              std::span(raw).first(static_cast<size_t>(rows * row_bytes(m.type, m.k))));
    dequantise_row(m.type, raw.data(), values.data(), count);
    for (int64_t i = 0; i < count; ++i) {
      if (bf16_to_float(float_to_bf16(values[i])) != values[i]) return false;
    }
  }
  return true;
}

// A piece of the dense part: rows of a matrix to pack, or of the embedding to read as they are.
struct Window {
  const MatrixSource* matrix;
  const DensePlacement* placement;  // nullptr: the embedding
  int64_t first, rows;
  int64_t bytes() const { return matrix->bytes() * rows / matrix->n; }
};

void add_windows(const MatrixSource& m, const DensePlacement* placement,
                 std::vector<Window>& windows) {
  const int64_t rows = window_rows(m);
  for (int64_t first = 0; first < m.n; first += rows) {
    windows.push_back({&m, placement, first, std::min(rows, m.n - first)});
  }
}

void read_window(const Window& window, Weights& w) {
  const MatrixSource& m = *window.matrix;
  if (window.placement == nullptr) {
    const int64_t stride = row_bytes(m.type, m.k);
    read_rows(m, window.first, window.rows,
              {w.embedding.data() + window.first * stride, size_t(window.rows * stride)});
    return;
  }
  std::vector<std::byte> staging(static_cast<size_t>(staging_bytes(m, window.rows)));
  pack_window(m, window.placement->shape, window.first, window.rows, staging.data(),
              w.memory.data() + window.placement->at);
}

void read_windows(const std::vector<Window>& windows, Weights& w, const LoadProgress& progress) {
  int64_t total = 0;
  for (const Window& window : windows) total += window.bytes();
  std::atomic<int64_t> done = 0;
  // In slices, so that progress is reported from the calling thread.
  constexpr size_t kSlice = 16;
  const auto expect = [&](size_t begin) {
    for (size_t i = begin; i < std::min(begin + kSlice, windows.size()); ++i) {
      expect_rows(*windows[i].matrix, windows[i].first, windows[i].rows);
    }
  };
  expect(0);
  for (size_t begin = 0; begin < windows.size(); begin += kSlice) {
    expect(begin + kSlice);  // the disk reads the next slice while this one is packed
    tbb::parallel_for(begin, std::min(begin + kSlice, windows.size()), [&](size_t i) {
      read_window(windows[i], w);
      done += windows[i].bytes();
    });
    progress(done, total);
  }
}

// False if the sidecar is damaged, which it remembers.
bool read_image(Sidecar& sidecar, Weights& w, const LoadProgress& progress) {
  const std::span image(w.memory.data(), static_cast<size_t>(w.image_bytes));
  std::atomic<bool> is_whole = true;
  constexpr int64_t kSlice = 64;
  for (int64_t begin = 0; begin < sidecar.dense_blocks() && is_whole; begin += kSlice) {
    const int64_t end = std::min(begin + kSlice, sidecar.dense_blocks());
    sidecar.expect_dense_blocks(end, std::min(end + kSlice, sidecar.dense_blocks()));
    tbb::parallel_for(begin, end, [&](int64_t block) {
      if (!sidecar.read_dense_block(block, image)) is_whole = false;
    });
    progress(end * kSidecarBlock, sidecar.dense_blocks() * kSidecarBlock);
  }
  return is_whole;
}

}  // namespace

Weights load_image(const ModelDescription& d, Sidecar* sidecar, const LoadProgress& progress) {
  Weights w;
  const DenseLayout layout(
      d,
      [&](const MatrixSource& m, size_t index) {
        return sidecar != nullptr ? sidecar->exact_in_bf16(index) : exact_in_bf16(m);
      },
      w);
  w.memory = Memory(w.image_bytes, "dense weights");
  if (sidecar == nullptr || !read_image(*sidecar, w, progress)) {
    if (sidecar != nullptr) w.memory = Memory(w.image_bytes, "dense weights");  // zero again
    std::vector<Window> windows;
    for (const DensePlacement& p : layout.placements()) {
      if (p.matrix != nullptr) add_windows(*p.matrix, &p, windows);
    }
    read_windows(windows, w, progress);
  }
  layout.place(w);
  return w;
}

Weights load_weights(const ModelDescription& d, Sidecar* sidecar, const LoadProgress& progress) {
  Weights w = load_image(d, sidecar, progress);
  w.embedding = Memory(d.embedding.bytes(), "the embedding");
  std::vector<Window> windows;
  add_windows(d.embedding, nullptr, windows);
  read_windows(windows, w, progress);
  return w;
}

}  // namespace hotset
