// Reading and packing of the dense weights: matrices are cut into windows of whole row groups,
// which oneTBB reads and packs in parallel.
#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "kernels/check.h"
#include "runtime/model/weights.h"

namespace hotset {

namespace {

constexpr int64_t kWindowBytes = 4 << 20;  // of source, read at once

int64_t window_rows(const MatrixSource& m) {
  return std::max<int64_t>(8, kWindowBytes / row_bytes(m.type, m.k) / 8 * 8);
}

bool exact_in_bf16(const MatrixSource& m) {
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

// One matrix or vector to be placed in Weights::memory.
struct Placement {
  const MatrixSource* matrix = nullptr;
  PackedShape shape;
  PackedMatrix* to = nullptr;
  std::vector<float> vector;  // or this
  const float** vector_to = nullptr;
  int64_t at = 0;
};

class Layouter {
 public:
  explicit Layouter(bool read_files) : read_files_(read_files) {}

  void matrix(const MatrixSource& source, PackedMatrix* to, bool as_float = false) {
    Placement p;
    p.matrix = &source;
    PackedFormat format = packed_format(source.type, read_files_ && exact_in_bf16(source));
    if (as_float && !format.is_float()) format = packed_format(TensorType::kF32);
    p.shape = packed_shape(format, source.n, source.k);
    p.to = to;
    p.at = reserve(p.shape.bytes);
    source_bytes_ += source.bytes();
    placements_.push_back(std::move(p));
  }
  void vector(std::vector<float> values, const float** to) {
    Placement p;
    p.at = reserve(static_cast<int64_t>(values.size()) * 4);
    p.vector = std::move(values);
    p.vector_to = to;
    placements_.push_back(std::move(p));
  }
  void model(const ModelDescription& d, Weights& w);

  const std::vector<Placement>& placements() const { return placements_; }
  int64_t bytes() const { return bytes_; }
  int64_t source_bytes() const { return source_bytes_; }

 private:
  int64_t reserve(int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ = (bytes_ + bytes + 63) / 64 * 64;
    return at;
  }
  void moe(const LayerTensors& tensors, MoeWeights& w);

  bool read_files_;
  std::vector<Placement> placements_;
  int64_t bytes_ = 0, source_bytes_ = 0;
};

// [channels][width] as files have it -> [width][channels] as the kernel reads it.
std::vector<float> transposed(const std::vector<float>& m, int64_t columns) {
  const int64_t rows = std::ssize(m) / columns;
  std::vector<float> t(m.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) t[c * rows + r] = m[r * columns + c];
  }
  return t;
}

void Layouter::moe(const LayerTensors& t, MoeWeights& w) {
  vector(t.moe_norm, &w.norm);
  matrix(t.router, &w.router, true);
  if (!t.shared_expert) return;
  w.has_shared_expert = true;
  matrix(t.shared_expert_gate, &w.shared_gate, true);
  matrix(t.shared_expert->gate, &w.shared.gate);
  matrix(t.shared_expert->up, &w.shared.up);
  matrix(t.shared_expert->down, &w.shared.down);
}

void Layouter::model(const ModelDescription& d, Weights& w) {
  w.layers.resize(d.layers.size());
  int64_t attention_layers = 0, delta_layers = 0;
  for (size_t i = 0; i < d.layers.size(); ++i) {
    const LayerTensors& t = d.layers[i];
    LayerWeights& layer = w.layers[i];
    vector(t.mixer_norm, &layer.mixer_norm);
    layer.is_delta_net = t.is_delta_net;
    if (t.is_delta_net) {
      layer.delta_net.index = delta_layers++;
      matrix(t.delta_net.qkv, &layer.delta_net.qkv);
      matrix(t.delta_net.z, &layer.delta_net.z);
      matrix(t.delta_net.ba, &layer.delta_net.ba, true);
      matrix(t.delta_net.out, &layer.delta_net.out);
      vector(transposed(t.delta_net.conv, d.config.linear_conv_kernel_dim), &layer.delta_net.conv);
      vector(t.delta_net.dt_bias, &layer.delta_net.dt_bias);
      vector(t.delta_net.a, &layer.delta_net.a);
      vector(t.delta_net.norm, &layer.delta_net.norm);
    } else {
      layer.attention.index = attention_layers++;
      matrix(t.attention.q, &layer.attention.q);
      matrix(t.attention.k, &layer.attention.k);
      matrix(t.attention.v, &layer.attention.v);
      matrix(t.attention.o, &layer.attention.o);
      vector(t.attention.q_norm, &layer.attention.q_norm);
      vector(t.attention.k_norm, &layer.attention.k_norm);
    }
    moe(t, layer.moe);
  }
  vector(d.final_norm, &w.final_norm);
  matrix(d.output, &w.output);
}

// Packs rows [first, first + rows) of a matrix; `staging` takes them in source form.
void pack_window(const MatrixSource& m, const PackedShape& shape, int64_t first, int64_t rows,
                 std::byte* staging, std::byte* packed) {
  const int64_t stride = row_bytes(m.type, m.k);
  const auto bytes = static_cast<size_t>(rows * stride);
  read_rows(m, first, rows, {staging, bytes});
  try {
    pack_rows(shape, m.type, staging, stride, first, rows, packed);
  } catch (const Error& e) {
    throw Error(
        fmt::format("{}: tensor {}: {}", m.rows.front().tensor->file->path(), m.name, e.what()));
  }
}

}  // namespace

void pack_matrix(const MatrixSource& source, const PackedShape& shape, std::byte* staging,
                 std::byte* packed) {
  pack_window(source, shape, 0, source.n, staging, packed);
}

DenseBytes dense_bytes(const ModelDescription& description) {
  Weights unused;
  Layouter layout(false);
  layout.model(description, unused);
  return {layout.bytes(), description.embedding.bytes()};
}

Weights load_weights(const ModelDescription& d, const LoadProgress& progress) {
  Weights w;
  Layouter layout(true);
  layout.model(d, w);
  w.memory = Memory(layout.bytes(), "dense weights");
  w.embedding.resize(static_cast<size_t>(d.embedding.bytes()));
  w.embedding_type = d.embedding.type;

  struct Window {
    const Placement* placement;
    int64_t first, rows;
  };
  std::vector<Window> windows;
  for (const Placement& p : layout.placements()) {
    std::byte* at = w.memory.data() + p.at;
    if (p.vector_to) {
      std::memcpy(at, p.vector.data(), p.vector.size() * sizeof(float));
      *p.vector_to = reinterpret_cast<const float*>(at);
      continue;
    }
    *p.to = {p.shape, at};
    w.packed_bytes += p.shape.bytes;
    const int64_t rows = window_rows(*p.matrix);
    for (int64_t first = 0; first < p.matrix->n; first += rows) {
      windows.push_back({&p, first, std::min(rows, p.matrix->n - first)});
    }
  }

  const int64_t total = layout.source_bytes() + d.embedding.bytes();
  read_rows(d.embedding, 0, d.embedding.n, w.embedding);
  std::atomic<int64_t> done = d.embedding.bytes();
  progress(done, total);
  // In slices, so that progress is reported from the calling thread.
  constexpr size_t kSlice = 16;
  const auto expect = [&](size_t begin) {
    for (size_t i = begin; i < std::min(begin + kSlice, windows.size()); ++i) {
      expect_rows(*windows[i].placement->matrix, windows[i].first, windows[i].rows);
    }
  };
  expect(0);
  for (size_t begin = 0; begin < windows.size(); begin += kSlice) {
    expect(begin + kSlice);  // the disk reads the next slice while this one is packed
    tbb::parallel_for(begin, std::min(begin + kSlice, windows.size()), [&](size_t i) {
      const Window& window = windows[i];
      const MatrixSource& m = *window.placement->matrix;
      const int64_t bytes = window.rows * row_bytes(m.type, m.k);
      std::vector<std::byte> staging(static_cast<size_t>(bytes));
      pack_window(m, window.placement->shape, window.first, window.rows, staging.data(),
                  w.memory.data() + window.placement->at);
      done += bytes;
    });
    progress(done, total);
  }
  return w;
}

}  // namespace hotset
