#include "runtime/model/expert_file_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/check.h"
#include "runtime/model/pack_matrix.h"

namespace hotset {

namespace {

// Every expert of a layer has the layout of the layer's first: slots of a layer are of one size.
ExpertShape layer_shape(const LayerTensors& layer) {
  const ExpertSourceTensors& first = layer.experts.front();
  for (const ExpertSourceTensors& e : layer.experts) {
    for (const auto& [matrix, expected] :
         {std::pair(&e.gate, &first.gate), {&e.up, &first.up}, {&e.down, &first.down}}) {
      if (packed_format(*matrix) != packed_format(*expected)) {
        throw Error(fmt::format(
            "tensor {}: is of another type or scheme than {}, expected the same: all experts of a "
            "layer must be alike",
            matrix->name, expected->name));
      }
    }
  }
  const auto shape = [](const MatrixSource& m) { return packed_shape(packed_format(m), m.n, m.k); };
  return expert_shape(shape(first.gate), shape(first.up), shape(first.down));
}

std::array<const MatrixSource*, 3> matrices(const ExpertSourceTensors& e) {
  return {&e.gate, &e.up, &e.down};
}

int64_t bytes_of(const MatrixSource& matrix, const RowRange& range) {
  return range.rows * row_bytes(matrix.type, matrix.k);
}

int64_t offset_of(const MatrixSource& matrix, const RowRange& range) {
  return static_cast<int64_t>(range.tensor->offset) +
         range.first_row * row_bytes(matrix.type, matrix.k);
}

}  // namespace

std::vector<ExpertShape> expert_shapes(const ModelDescription& description) {
  std::vector<ExpertShape> shapes;
  for (const LayerTensors& layer : description.layers) shapes.push_back(layer_shape(layer));
  return shapes;
}

ExpertFileSource::ExpertFileSource(const ModelDescription& description, int loads, FileReads reads)
    : description_(description), shapes_(expert_shapes(description)) {
  for (const LayerTensors& layer : description.layers) {
    for (const ExpertSourceTensors& e : layer.experts) {
      for (const MatrixSource* matrix : matrices(e)) {
        staging_bytes_ = std::max(staging_bytes_, matrix->bytes());
        int64_t landing = 0;
        for (const RowRange& range : matrix->rows)
          landing += landing_bytes_of(bytes_of(*matrix, range));
        part_bytes_ = std::max(part_bytes_, landing);
      }
    }
  }
  for (const File* file : description.files) files_.emplace_back(*file, reads);
  idle_.assign(loads, std::vector<std::byte>(static_cast<size_t>(staging_bytes_)));
}

int64_t ExpertFileSource::expert_bytes(int32_t layer) const {
  return (shapes_[layer].bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

int64_t ExpertFileSource::load(ExpertId id, std::span<std::byte> slot) {
  std::vector<std::byte> staging;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      staging = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  staging.resize(static_cast<size_t>(staging_bytes_));
  const ExpertSourceTensors& expert = description_.layers[id.layer].experts[id.expert];
  const ExpertShape& shape = shapes_[id.layer];
  HOTSET_CHECK(std::ssize(slot) >= shape.bytes, "a slot of another size class");
  pack_matrix(expert.gate, shape.gate, staging.data(), slot.data() + shape.gate_at);
  pack_matrix(expert.up, shape.up, staging.data(), slot.data() + shape.up_at);
  pack_matrix(expert.down, shape.down, staging.data(), slot.data() + shape.down_at);
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(staging));
  return expert.gate.bytes() + expert.up.bytes() + expert.down.bytes();
}

const LandingFile& ExpertFileSource::file_of(const RowRange& range) const {
  return *std::find_if(files_.begin(), files_.end(),
                       [&](const LandingFile& file) { return &file.file() == range.tensor->file; });
}

// The ranges of a matrix (nearly always one) end up behind each other, from where the first landed.
int64_t ExpertFileSource::read(ExpertId id, int32_t part, std::byte* landing) {
  const MatrixSource& matrix = *matrices(description_.layers[id.layer].experts[id.expert])[part];
  landing += part * part_bytes_;
  int64_t bytes_read = 0;
  std::byte* end = nullptr;  // of what has come
  try {
    for (const RowRange& range : matrix.rows) {
      const int64_t offset = offset_of(matrix, range), bytes = bytes_of(matrix, range);
      bytes_read += file_of(range).read(offset, bytes, landing);
      std::byte* const begin = landing + offset % kPageBytes;
      if (end != nullptr) std::memmove(end, begin, static_cast<size_t>(bytes));
      end = (end != nullptr ? end : begin) + bytes;
      landing += landing_bytes_of(bytes);
    }
  } catch (const Error& error) {
    throw Error(fmt::format("{} (tensor {}: expert {} of layer {})", error.what(), matrix.name,
                            id.expert, id.layer));
  }
  return bytes_read;
}

void ExpertFileSource::pack(ExpertId id, int32_t part, const std::byte* landing,
                            std::span<std::byte> slot) {
  const MatrixSource& matrix = *matrices(description_.layers[id.layer].experts[id.expert])[part];
  const ExpertShape& shape = shapes_[id.layer];
  const PackedShape& packed = part == 0 ? shape.gate : part == 1 ? shape.up : shape.down;
  const int64_t at = part == 0 ? shape.gate_at : part == 1 ? shape.up_at : shape.down_at;
  const int64_t offset = offset_of(matrix, matrix.rows.front());
  const std::byte* const source = landing + part * part_bytes_ + offset % kPageBytes;
  try {
    pack_rows(packed, matrix.type, source, row_bytes(matrix.type, matrix.k), 0, matrix.n,
              slot.data() + at);
  } catch (const Error& error) {
    throw Error(fmt::format("{}: tensor {}: expert {} of layer {}, from offset {}: {}",
                            matrix.rows.front().tensor->file->path(), matrix.name, id.expert,
                            id.layer, offset, error.what()));
  }
}

void ExpertFileSource::expect(ExpertId id) {
  const ExpertSourceTensors& expert = description_.layers[id.layer].experts[id.expert];
  for (const MatrixSource* matrix : matrices(expert)) expect_rows(*matrix, 0, matrix->n);
}

}  // namespace hotset
