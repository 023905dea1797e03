// The sidecar's format and reading (see sidecar.h).
#include "runtime/model/sidecar.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "kernels/check.h"
#include "runtime/model/dense_layout.h"
#include "runtime/model/expert_file_source.h"
#include "runtime/weights/checksum.h"
#include "runtime/weights/quantised/quantised.h"

namespace hotset {

namespace {

static_assert(std::endian::native == std::endian::little && sizeof(SidecarHead) == 56);

constexpr int64_t kAlignment = 4096;  // a page, so that a blob's read touches no other's

int64_t aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t blocks_of(int64_t dense_bytes) {
  return (dense_bytes + kSidecarBlock - 1) / kSidecarBlock;
}

void add_matrix(Checksum& sum, const MatrixSource& matrix) {
  sum.add(uint64_t(matrix.type)).add(uint64_t(matrix.n)).add(uint64_t(matrix.k));
  if (matrix.quantised != nullptr) {
    sum.add(matrix.quantised->scheme());
    for (const TensorInfo* tensor : matrix.quantised->tensors()) {
      sum.add(tensor->name).add(tensor->offset);
    }
  }
  for (const RowRange& range : matrix.rows) {
    sum.add(range.tensor->name).add(range.tensor->offset);
    sum.add(uint64_t(range.first_row)).add(uint64_t(range.rows));
  }
}

}  // namespace

std::pair<int64_t, int64_t> expert_part(int64_t bytes, int32_t part) {
  const int64_t share = aligned(bytes / kExpertParts), begin = std::min(part * share, bytes);
  return {begin, part + 1 == kExpertParts ? bytes : std::min(begin + share, bytes)};
}

SidecarLayout::SidecarLayout(const ModelDescription& description, int64_t matrices,
                             int64_t dense_bytes) {
  const int64_t experts = description.config.num_experts;
  expert_sums_at =
      static_cast<int64_t>(sizeof(SidecarHead)) + matrices + 8 * blocks_of(dense_bytes);
  dense_at = aligned(expert_sums_at + 8 * kExpertParts * experts * std::ssize(description.layers));
  file_bytes = aligned(dense_at + dense_bytes);
  for (const ExpertShape& shape : expert_shapes(description)) {
    layer_at.push_back(file_bytes);
    blob_stride.push_back(aligned(shape.bytes));
    file_bytes += experts * blob_stride.back();
  }
}

uint64_t head_checksum(const SidecarHead& head, const SidecarTables& tables) {
  const auto bytes = std::as_bytes(std::span(&head, 1));
  return Checksum()
      .add(bytes.first(sizeof(SidecarHead) - sizeof(head.checksum)))
      .add(std::as_bytes(std::span(tables.exact_in_bf16)))
      .add(std::as_bytes(std::span(tables.dense_sums)))
      .add(std::as_bytes(std::span(tables.expert_sums)))
      .value();
}

uint64_t fingerprint_of(const ModelDescription& description) {
  Checksum sum;
  sum.add(description.config_checksum);
  for (const File* file : description.files) sum.add(file->identity());
  Weights unused;
  const auto add_dense = [&](const MatrixSource& matrix, size_t) {
    add_matrix(sum, matrix);
    return false;
  };
  DenseLayout(description, add_dense, unused);
  for (const LayerTensors& layer : description.layers) {
    for (const ExpertSourceTensors& expert : layer.experts) {
      for (const MatrixSource* m : {&expert.gate, &expert.up, &expert.down}) add_matrix(sum, *m);
    }
  }
  return sum.value();
}

Sidecar::Sidecar(const std::string& path, const ModelDescription& description, OnDamage on_damage)
    : file_(path),
      experts_per_layer_(description.config.num_experts),
      on_damage_(std::move(on_damage)) {
  read_head(description);
  read_tables();
  check_layout(description);
}

void Sidecar::read_head(const ModelDescription& description) {
  if (file_.size() < sizeof(head_)) {
    throw Error(fmt::format("{}: found {} bytes, expected a sidecar of at least {}", path(),
                            file_.size(), sizeof(head_)));
  }
  file_.read(0, std::as_writable_bytes(std::span(&head_, 1)));
  const SidecarHead expected;
  if (head_.magic != expected.magic) {
    throw Error(path() + ": is not a sidecar, or one of another version");
  }
  if (head_.packed_version != expected.packed_version) {
    throw Error(fmt::format("{}: holds weights packed as version {}, expected version {}", path(),
                            head_.packed_version, expected.packed_version));
  }
  if (const uint64_t fingerprint = fingerprint_of(description); head_.fingerprint != fingerprint) {
    throw Error(
        fmt::format("{}: was made of another model, or of this one before its files changed: found "
                    "fingerprint {:016x}, expected {:016x}",
                    path(), head_.fingerprint, fingerprint));
  }
  if (head_.file_bytes != file_.size()) {
    throw Error(fmt::format("{}: found {} bytes, expected {}: it was cut short", path(),
                            file_.size(), head_.file_bytes));
  }
}

// Sizes from the head are believed only as far as the file's own: no allocation is larger.
void Sidecar::read_tables() {
  const uint64_t most = file_.size();
  uint64_t at = sizeof(head_);
  const auto read_next = [&](auto& table, uint64_t count) {
    const uint64_t bytes = count * sizeof(table[0]);
    if (count > most || bytes > most - at) {
      throw Error(fmt::format("{}: head: found a table of {} entries at byte {} of {}", path(),
                              count, at, most));
    }
    table.resize(count);
    file_.read(at, std::as_writable_bytes(std::span(table)));
    at += bytes;
  };
  read_next(tables_.exact_in_bf16, head_.matrices);
  if (head_.dense_bytes > most) {
    throw Error(fmt::format("{}: head: found {} dense bytes in a file of {}", path(),
                            head_.dense_bytes, most));
  }
  read_next(tables_.dense_sums, blocks_of(dense_bytes()));
  if (head_.experts > most) {
    throw Error(fmt::format("{}: head: found {} experts in {} bytes", path(), head_.experts, most));
  }
  read_next(tables_.expert_sums, head_.experts * kExpertParts);
  if (const uint64_t found = head_checksum(head_, tables_); found != head_.checksum) {
    throw Error(fmt::format("{}: head: found checksum {:016x}, expected {:016x}", path(), found,
                            head_.checksum));
  }
}

// What a whole head says must still be what this program makes of the model.
void Sidecar::check_layout(const ModelDescription& description) {
  Weights planned;
  const auto is_exact = [&](const MatrixSource&, size_t index) {
    return index < tables_.exact_in_bf16.size() && exact_in_bf16(index);
  };
  DenseLayout(description, is_exact, planned);
  layout_ = SidecarLayout(description, std::ssize(planned.exact_in_bf16), planned.image_bytes);
  const auto check = [&](const char* what, uint64_t found, int64_t expected) {
    if (found == static_cast<uint64_t>(expected)) return;
    throw Error(fmt::format("{}: head: {}: found {}, expected {}", path(), what, found, expected));
  };
  check("dense matrices", head_.matrices, std::ssize(planned.exact_in_bf16));
  check("dense bytes", head_.dense_bytes, planned.image_bytes);
  check("experts", head_.experts, experts_per_layer_ * std::ssize(description.layers));
  check("bytes", head_.file_bytes, layout_.file_bytes);
}

// Read and summed in pieces that are still in a core's own cache when they are summed: one pass
// over memory instead of two.
template <class What>
bool Sidecar::read(int64_t at, std::span<std::byte> out, uint64_t expected, const What& what) {
  constexpr size_t kPiece = 128 << 10;
  std::string damage;
  try {
    Checksum sum;
    for (size_t done = 0; done < out.size();) {
      const std::span piece = out.subspan(done, std::min(kPiece, out.size() - done));
      file_.read(static_cast<uint64_t>(at) + done, piece);
      sum.add(std::span<const std::byte>(piece));
      done += piece.size();
    }
    if (sum.value() == expected) return true;
    damage = fmt::format("{}: {}: found checksum {:016x}, expected {:016x}", path(), what(),
                         sum.value(), expected);
  } catch (const Error& error) {
    damage = error.what();
  }
  note_damage(damage);
  return false;
}

void Sidecar::note_damage(const std::string& damage) {
  if (!is_damaged_.exchange(true)) on_damage_(damage);
}

bool Sidecar::is_expert_part(ExpertId id, int32_t part, std::span<const std::byte> bytes) {
  const uint64_t found = Checksum().add(bytes).value(), expected = expert_sum(id, part);
  if (found == expected) return true;
  note_damage(
      fmt::format("{}: part {} of expert {} of layer {} at offset {}: found checksum {:016x}, "
                  "expected {:016x}",
                  path(), part, id.expert, id.layer, expert_at(id), found, expected));
  return false;
}

bool Sidecar::read_dense_block(int64_t block, std::span<std::byte> image) {
  const int64_t first = block * kSidecarBlock;
  const int64_t bytes = std::min(kSidecarBlock, dense_bytes() - first);
  return read(layout_.dense_at + first, image.subspan(first, bytes), tables_.dense_sums[block],
              [&] { return fmt::format("dense block {}", block); });
}

bool Sidecar::read_expert(ExpertId id, std::span<std::byte> blob) {
  for (int32_t part = 0; part < kExpertParts; ++part) {
    const auto [begin, end] = expert_part(std::ssize(blob), part);
    const bool is_whole =
        read(expert_at(id) + begin, blob.subspan(begin, end - begin), expert_sum(id, part),
             [&] { return fmt::format("expert {} of layer {}", id.expert, id.layer); });
    if (!is_whole) return false;
  }
  return true;
}

void Sidecar::expect_dense_blocks(int64_t begin, int64_t end) const {
  file_.expect(layout_.dense_at + begin * kSidecarBlock, (end - begin) * kSidecarBlock);
}

void Sidecar::expect_expert(ExpertId id) const {
  file_.expect(layout_.expert_at(id), layout_.blob_stride[id.layer]);
}

}  // namespace hotset
