// Reading every weight of a model once to see that it is finite (see verify.h).
#include "runtime/weights/verify.h"

#include <algorithm>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr int64_t kWindowBytes = 4 << 20;

std::vector<const MatrixSource*> matrices_of(const ModelDescription& model) {
  std::vector<const MatrixSource*> all{&model.embedding};
  if (!model.config.tie_word_embeddings) all.push_back(&model.output);
  const auto add_expert = [&](const ExpertSourceTensors& expert) {
    all.insert(all.end(), {&expert.gate, &expert.up, &expert.down});
  };
  for (const LayerTensors& layer : model.layers) {
    if (layer.is_delta_net) {
      const DeltaNetTensors& mixer = layer.delta_net;
      all.insert(all.end(), {&mixer.qkv, &mixer.z, &mixer.ba, &mixer.out});
    } else {
      const AttentionTensors& mixer = layer.attention;
      all.insert(all.end(), {&mixer.q, &mixer.k, &mixer.v, &mixer.o});
    }
    all.push_back(&layer.router);
    for (const ExpertSourceTensors& expert : layer.experts) add_expert(expert);
    if (layer.shared_expert) {
      add_expert(*layer.shared_expert);
      all.push_back(&layer.shared_expert_gate);
    }
  }
  return all;
}

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

}  // namespace

void verify_weights(const ModelDescription& model, const VerifyProgress& progress) {
  const auto matrices = matrices_of(model);
  uint64_t total = 0, done = 0;
  for (const MatrixSource* matrix : matrices) total += static_cast<uint64_t>(matrix->bytes());
  std::vector<std::byte> window;
  for (const MatrixSource* matrix : matrices) {
    for (const RowRange& range : matrix->rows) verify_range(range, window);
    done += static_cast<uint64_t>(matrix->bytes());
    if (progress) progress(done, total);
  }
}

}  // namespace hotset
