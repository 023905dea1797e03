// Opening a model of any container, and reading rows of its matrices (see model_description.h).
#include "runtime/weights/model_description.h"

#include <cstring>
#include <filesystem>

#include "kernels/check.h"
#include "runtime/weights/describe.h"
#include "runtime/weights/quantised/quantised.h"

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

int64_t MatrixSource::bytes() const {
  if (quantised == nullptr) return n * row_bytes(type, k);
  return static_cast<int64_t>(static_cast<double>(quantised->bytes()) * static_cast<double>(n) /
                              static_cast<double>(quantised->n()));
}

void read_rows(const MatrixSource& matrix, int64_t first_row, int64_t rows,
               std::span<std::byte> out) {
  const int64_t stride = row_bytes(matrix.type, matrix.k);
  HOTSET_CHECK(std::ssize(out) == rows * stride, "out holds exactly the rows");
  for_each_range(matrix, first_row, rows, [&](const RowRange& range) {
    const std::span<std::byte> now = out.first(static_cast<size_t>(range.rows * stride));
    if (matrix.quantised != nullptr) {
      std::vector<float> values(static_cast<size_t>(range.rows * matrix.k));
      dequantise_rows(*matrix.quantised, range.first_row, range.rows, values.data());
      std::memcpy(now.data(), values.data(), now.size());
    } else {
      const auto at = static_cast<uint64_t>(range.first_row * stride);
      range.tensor->file->read(range.tensor->offset + at, now);
    }
    out = out.subspan(now.size());
  });
}

void expect_rows(const MatrixSource& matrix, int64_t first_row, int64_t rows) {
  if (matrix.quantised != nullptr) {
    if (first_row > 0) return;  // all of them have been expected with the first
    for (const TensorInfo* tensor : matrix.quantised->tensors()) {
      tensor->file->expect(tensor->offset, tensor->bytes);
    }
    return;
  }
  const int64_t stride = row_bytes(matrix.type, matrix.k);
  for_each_range(matrix, first_row, rows, [&](const RowRange& range) {
    const auto at = static_cast<uint64_t>(range.first_row * stride);
    range.tensor->file->expect(range.tensor->offset + at,
                               static_cast<uint64_t>(range.rows * stride));
  });
}

void for_each_matrix(ModelDescription& model, const std::function<void(MatrixSource&)>& body) {
  const auto expert = [&](ExpertSourceTensors& e) {
    for (MatrixSource* matrix : {&e.gate, &e.up, &e.down}) body(*matrix);
  };
  body(model.embedding);
  if (!model.config.tie_word_embeddings) body(model.output);
  for (LayerTensors& layer : model.layers) {
    if (layer.is_delta_net) {
      DeltaNetTensors& mixer = layer.delta_net;
      for (MatrixSource* matrix : {&mixer.qkv, &mixer.z, &mixer.ba, &mixer.out}) body(*matrix);
    } else {
      AttentionTensors& mixer = layer.attention;
      for (MatrixSource* matrix : {&mixer.q, &mixer.k, &mixer.v, &mixer.o}) body(*matrix);
    }
    body(layer.router);
    for (ExpertSourceTensors& e : layer.experts) expert(e);
    if (layer.shared_expert) {
      expert(*layer.shared_expert);
      body(layer.shared_expert_gate);
    }
  }
}

void for_each_matrix(const ModelDescription& model,
                     const std::function<void(const MatrixSource&)>& body) {
  // The walk is the same, and this body changes nothing.
  for_each_matrix(const_cast<ModelDescription&>(model), [&](MatrixSource& m) { body(m); });
}

ModelDescription reference(ModelDescription model) {
  for_each_matrix(model, [](MatrixSource& matrix) { matrix.as_float = true; });
  model.output.as_float = true;  // a tied one, too
  return model;
}

}  // namespace hotset
