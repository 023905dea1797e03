// A sidecar: a model's weights in packed form, in a file of their own, so that a later start reads
// and checks them instead of packing them again. The model's file stays what names, describes and
// owns the weights; a sidecar can be removed at any time.
//
//   head    56 bytes (SidecarHead), then tables: one byte for each dense matrix (exact in bf16 or
//           not), a checksum for each MiB of the dense image, kExpertParts for each expert
//   dense   the image as DenseLayout places it
//   experts blobs by layer and expert, each of the layer's slot size
//
// Dense part and experts begin at multiples of 4096, and so does each blob. The embedding is not
// there: the model's file has it in the very form in which memory does, and is open anyway.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cache/expert_id.h"
#include "kernels/packed.h"
#include "runtime/weights/file.h"
#include "runtime/weights/model_description.h"

namespace hotset {

inline constexpr int64_t kSidecarBlock = 1 << 20;  // of the dense image: what one checksum covers

// An expert's parts are read at once, for a single read does not take all that a disk gives, and
// each is checked by the thread that has read it: nobody waits for one sum over all of them.
inline constexpr int32_t kExpertParts = 4;
// Where part 0 <= part < kExpertParts of a blob of `bytes` bytes begins and ends: whole pages, but
// for the end of the last. Small blobs have empty parts.
std::pair<int64_t, int64_t> expert_part(int64_t bytes, int32_t part);

struct SidecarHead {  // as it lies in the file, little-endian
  std::array<char, 8> magic = {'h', 'o', 't', 's', 'e', 't', 'S', '2'};  // '0' while unfinished
  uint32_t packed_version = kPackedVersion;
  uint32_t matrices = 0;
  uint64_t fingerprint = 0;
  uint64_t dense_bytes = 0, experts = 0, file_bytes = 0;
  uint64_t checksum = 0;  // of all before it, then the tables

  bool operator==(const SidecarHead&) const = default;
};

struct SidecarTables {
  std::vector<uint8_t> exact_in_bf16;  // [matrices]
  std::vector<uint64_t> dense_sums;    // [blocks]
  std::vector<uint64_t> expert_sums;   // [layers][experts][kExpertParts]
};

// Where everything lies for a model and its dense bytes.
struct SidecarLayout {
  int64_t expert_sums_at = 0, dense_at = 0, file_bytes = 0;
  std::vector<int64_t> layer_at, blob_stride;  // [layers]

  SidecarLayout() = default;
  SidecarLayout(const ModelDescription& description, int64_t matrices, int64_t dense_bytes);
  int64_t expert_at(ExpertId id) const {
    return layer_at[id.layer] + id.expert * blob_stride[id.layer];
  }
};

uint64_t head_checksum(const SidecarHead& head, const SidecarTables& tables);

// What a model's files are, wherever they lie and whenever they were written: the size of each, all
// of its metadata, 256 pages of its contents (File::identity()), and which rows of which tensors
// the weights are made of. Reading all of it would take as long as loading.
uint64_t fingerprint_of(const ModelDescription& description);

// An open sidecar. Reading is thread-safe.
class Sidecar {
 public:
  using OnDamage = std::function<void(const std::string&)>;

  // Opens it and checks all but the weights themselves. Throws Error naming the file, what was
  // found and what was expected: it is damaged, or of another model or version. `on_damage` is
  // called once, by whichever thread comes upon the first damaged block later.
  Sidecar(const std::string& path, const ModelDescription& description, OnDamage on_damage);

  const std::string& path() const { return file_.path(); }
  const File& file() const { return file_; }
  bool exact_in_bf16(size_t matrix) const { return tables_.exact_in_bf16[matrix] != 0; }
  int64_t dense_bytes() const { return static_cast<int64_t>(head_.dense_bytes); }
  int64_t dense_blocks() const { return std::ssize(tables_.dense_sums); }

  // False if the bytes are not those that were written; then on_damage has been called.
  bool read_dense_block(int64_t block, std::span<std::byte> image);
  bool read_expert(ExpertId id, std::span<std::byte> blob);
  // Where an expert lies, for those who read it themselves; whether what they have is a part of it;
  // and where they report that they could not.
  int64_t expert_at(ExpertId id) const { return layout_.expert_at(id); }
  bool is_expert_part(ExpertId id, int32_t part, std::span<const std::byte> bytes);
  void note_damage(const std::string& damage);
  void expect_dense_blocks(int64_t begin, int64_t end) const;
  void expect_expert(ExpertId id) const;

 private:
  void read_head(const ModelDescription& description);
  void read_tables();
  void check_layout(const ModelDescription& description);
  uint64_t expert_sum(ExpertId id, int32_t part) const {
    return tables_.expert_sums[(id.layer * experts_per_layer_ + id.expert) * kExpertParts + part];
  }
  template <class What>
  bool read(int64_t at, std::span<std::byte> out, uint64_t expected, const What& what);

  File file_;
  SidecarHead head_;
  SidecarTables tables_;
  SidecarLayout layout_;
  int64_t experts_per_layer_;
  const OnDamage on_damage_;
  std::atomic<bool> is_damaged_ = false;
};

// Packs the model into a sidecar. Memory: the dense part, as a run of the model holds it, and a few
// experts. `progress` is called from this thread. Throws Error, which leaves no file. If the
// process is killed, or `progress` throws something else, the unfinished file stays (PATH.part),
// and the next call packs only the experts that are not there with the checksum noted beside them.
// Returns how many were there.
int64_t write_sidecar(const ModelDescription& description, const std::string& path,
                      const std::function<void(int64_t, int64_t)>& progress);

}  // namespace hotset
