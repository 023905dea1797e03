#include "runtime/model/expert_file_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "runtime/model/pack_matrix.h"
#include "runtime/weights/quantised/quantised.h"

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

int64_t whole_pages(int64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

void check_unchanged(const MatrixSource& matrix) {
  if (matrix.quantised == nullptr) {
    for (const RowRange& range : matrix.rows) range.tensor->file->check_unchanged();
  } else {
    for (const TensorInfo* tensor : matrix.quantised->tensors()) tensor->file->check_unchanged();
  }
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

ExpertFileSource::ExpertFileSource(const ModelDescription& description, int loads, int reads,
                                   FileReads file_reads)
    : description_(description), shapes_(expert_shapes(description)), file_reads_(file_reads) {
  bool is_quantised = false;
  for (int32_t layer = 0; layer < layer_count(); ++layer) {
    for (int32_t expert = 0; expert < experts_per_layer(); ++expert) {
      for (int32_t part = 0; part < 3; ++part) {
        const MatrixSource& m = matrix({layer, expert}, part);
        staging_bytes_ = std::max(staging_bytes_, staging_bytes(m, m.n));
        int64_t landing = 0;
        if (m.quantised != nullptr) {
          is_quantised = true;
          landing = whole_pages(place({layer, expert}, part).first.bytes);
        } else {
          for (const RowRange& range : m.rows) landing += landing_bytes_of(bytes_of(m, range));
        }
        part_bytes_ = std::max(part_bytes_, landing);
      }
    }
  }
  for (const File* file : description.files) files_.emplace_back(*file, file_reads);
  if (file_reads == FileReads::kDirect) staging_bytes_ = std::max(staging_bytes_, landing_bytes());
  for (int i = 0; i < loads + (is_quantised ? reads : 0); ++i) idle_.push_back(new_staging());
}

Memory ExpertFileSource::new_staging() const {
  return Memory(staging_bytes_, "an expert on its way into a slot");
}

const MatrixSource& ExpertFileSource::matrix(ExpertId id, int32_t part) const {
  const ExpertSourceTensors& e = description_.layers[id.layer].experts[id.expert];
  return part == 0 ? e.gate : part == 1 ? e.up : e.down;
}

// The packed shape of a part, and where it lies in the slot.
std::pair<const PackedShape&, int64_t> ExpertFileSource::place(ExpertId id, int32_t part) const {
  const ExpertShape& shape = shapes_[id.layer];
  if (part == 0) return {shape.gate, shape.gate_at};
  if (part == 1) return {shape.up, shape.up_at};
  return {shape.down, shape.down_at};
}

template <class Body>
void ExpertFileSource::with_staging(const Body& body) {
  Memory staging;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      staging = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (staging.data() == nullptr) staging = new_staging();
  const auto give_back = [&] {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(staging));
  };
  try {
    body(staging.data());
  } catch (...) {
    give_back();
    throw;
  }
  give_back();
}

int64_t ExpertFileSource::expert_bytes(int32_t layer) const {
  return whole_pages(shapes_[layer].bytes);
}

int64_t ExpertFileSource::load(ExpertId id, std::span<std::byte> slot) {
  HOTSET_CHECK(std::ssize(slot) >= shapes_[id.layer].bytes, "a slot of another size class");
  int64_t bytes = 0;
  with_staging([&](std::byte* staging) {
    for (int32_t part = 0; part < parts(); ++part) {
      const MatrixSource& m = matrix(id, part);
      if (file_reads_ == FileReads::kDirect && m.quantised == nullptr) {
        bytes += read(id, part, staging);
        for (int32_t piece = 0; piece < kPiecesOfAPart; ++piece) {
          pack(id, part * kPiecesOfAPart + piece, staging, slot);
        }
        continue;
      }
      const auto [shape, at] = place(id, part);
      pack_matrix(m, shape, staging, slot.data() + at);
      check_unchanged(m);
      bytes += m.bytes();
    }
  });
  return bytes;
}

const LandingFile& ExpertFileSource::file_of(const RowRange& range) const {
  return *std::find_if(files_.begin(), files_.end(),
                       [&](const LandingFile& file) { return &file.file() == range.tensor->file; });
}

// The ranges of a matrix (nearly always one) end up behind each other, from where the first landed.
// A quantised checkpoint's module is gathered from several tensors, so it is packed as it is read.
int64_t ExpertFileSource::read(ExpertId id, int32_t part, std::byte* landing) {
  const MatrixSource& m = matrix(id, part);
  landing += part * part_bytes_;
  int64_t bytes_read = 0;
  std::byte* end = nullptr;  // of what has come
  try {
    if (m.quantised != nullptr) {
      with_staging(
          [&](std::byte* staging) { pack_matrix(m, place(id, part).first, staging, landing); });
      check_unchanged(m);
      return m.bytes();
    }
    for (const RowRange& range : m.rows) {
      const int64_t offset = offset_of(m, range), bytes = bytes_of(m, range);
      bytes_read += file_of(range).read(offset, bytes, landing);
      std::byte* const begin = landing + offset % kPageBytes;
      if (end != nullptr) std::memmove(end, begin, static_cast<size_t>(bytes));
      end = (end != nullptr ? end : begin) + bytes;
      landing += landing_bytes_of(bytes);
    }
  } catch (const Error& error) {
    const RowRange& range = m.rows.front();
    const auto tensor_at = static_cast<int64_t>(range.tensor->offset);
    throw Error(fmt::format("{} (tensor {}: expert {} of layer {}, from offset {})", error.what(),
                            m.name, id.expert, id.layer,
                            m.quantised != nullptr ? tensor_at : offset_of(m, range)));
  }
  return bytes_read;
}

void ExpertFileSource::pack(ExpertId id, int32_t task, const std::byte* landing,
                            std::span<std::byte> slot) {
  const int32_t part = task / kPiecesOfAPart, piece = task % kPiecesOfAPart;
  const MatrixSource& m = matrix(id, part);
  const auto [shape, at] = place(id, part);
  landing += part * part_bytes_;
  const auto share_of = [&](int64_t whole) {  // begin and end of the piece's
    return std::pair(whole * piece / kPiecesOfAPart, whole * (piece + 1) / kPiecesOfAPart);
  };
  if (m.quantised != nullptr) {
    const auto [begin, end] = share_of(shape.bytes);
    std::memcpy(slot.data() + at + begin, landing + begin, static_cast<size_t>(end - begin));
    return;
  }
  const auto [first_group, end_group] = share_of(shape.groups());
  const int64_t first = 8 * first_group, rows = std::min(8 * end_group, m.n) - first;
  const int64_t stride = row_bytes(m.type, m.k);
  const int64_t offset = offset_of(m, m.rows.front());
  try {
    pack_rows(shape, m.type, landing + offset % kPageBytes + first * stride, stride, first, rows,
              slot.data() + at);
  } catch (const Error& error) {
    throw Error(fmt::format("{}: tensor {}: expert {} of layer {}, from offset {}: {}",
                            m.rows.front().tensor->file->path(), m.name, id.expert, id.layer,
                            offset, error.what()));
  }
}

void ExpertFileSource::expect(ExpertId id) {
  if (file_reads_ == FileReads::kDirect)
    return;  // the page cache is not where it will be read from
  for (int32_t part = 0; part < parts(); ++part) {
    const MatrixSource& m = matrix(id, part);
    expect_rows(m, 0, m.n);
  }
}

}  // namespace hotset
