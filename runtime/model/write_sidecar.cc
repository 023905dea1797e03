// Packing a model into a sidecar (see sidecar.h): the dense part first, then experts, a slice of
// them at a time on all cores; the head last.
#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "runtime/model/expert_file_source.h"
#include "runtime/model/sidecar.h"
#include "runtime/model/weights.h"
#include "runtime/weights/checksum.h"
#include "runtime/weights/output_file.h"

namespace hotset {

namespace {

using Progress = std::function<void(int64_t, int64_t)>;

struct Writer {
  const ModelDescription& description;
  const Progress& progress;
  OutputFile file;
  SidecarHead head;
  SidecarTables tables;
  SidecarLayout layout;
  int64_t done = 0;  // bytes of the model, all of which but the embedding are read

  // The image is packed in memory as a whole: a machine that is to run the model holds it anyway,
  // and a matrix's planes lie too far apart to be written window by window.
  void write_dense() {
    const Weights weights = load_image(
        description, nullptr, [&](int64_t read, int64_t) { progress(done = read, total_bytes()); });
    head.matrices = static_cast<uint32_t>(weights.exact_in_bf16.size());
    head.dense_bytes = static_cast<uint64_t>(weights.image_bytes);
    tables.exact_in_bf16 = weights.exact_in_bf16;
    layout = SidecarLayout(description, head.matrices, weights.image_bytes);
    for (int64_t at = 0; at < weights.image_bytes; at += kSidecarBlock) {
      const std::span<const std::byte> block(
          weights.memory.data() + at,
          static_cast<size_t>(std::min(kSidecarBlock, weights.image_bytes - at)));
      tables.dense_sums.push_back(Checksum().add(block).value());
      file.write(layout.dense_at + at, block);
      progress(done, total_bytes());
    }
  }

  void write_experts() {
    constexpr int64_t kSlice = 16;  // blobs in memory at once, and between two looks at Ctrl-C
    ExpertFileSource source(description, kSlice);
    const int64_t each = source.experts_per_layer(), experts = each * source.layer_count();
    head.experts = static_cast<uint64_t>(experts);
    head.file_bytes = static_cast<uint64_t>(layout.file_bytes);
    const std::byte end{};  // the last blob's padding is part of the file
    file.write(head.file_bytes - 1, {&end, 1});
    tables.expert_sums.resize(experts);
    std::vector<std::vector<std::byte>> blobs(kSlice);
    for (int64_t begin = 0; begin < experts; begin += kSlice) {
      std::atomic<int64_t> bytes = 0;
      tbb::parallel_for(begin, std::min(begin + kSlice, experts), [&](int64_t i) {
        const ExpertId id{static_cast<int32_t>(i / each), static_cast<int32_t>(i % each)};
        std::vector<std::byte>& blob = blobs[i - begin];
        // Zero: the padding between planes is summed and written, too.
        blob.assign(static_cast<size_t>(source.shapes()[id.layer].bytes), std::byte{});
        bytes += source.load(id, blob);
        tables.expert_sums[i] = Checksum().add(std::span<const std::byte>(blob)).value();
        file.write(layout.expert_at(id), blob);
      });
      progress(done += bytes, total_bytes());
    }
  }

  // Last: without it nothing is taken for a sidecar.
  void write_head() {
    head.fingerprint = fingerprint_of(description);
    head.checksum = head_checksum(head, tables);
    uint64_t at = 0;
    const auto append = [&](std::span<const std::byte> bytes) {
      file.write(at, bytes);
      at += bytes.size();
    };
    append(std::as_bytes(std::span(&head, 1)));
    append(std::as_bytes(std::span(tables.exact_in_bf16)));
    append(std::as_bytes(std::span(tables.dense_sums)));
    append(std::as_bytes(std::span(tables.expert_sums)));
  }

  int64_t total_bytes() const { return static_cast<int64_t>(description.file_bytes()); }
};

}  // namespace

void write_sidecar(const ModelDescription& description, const std::string& path,
                   const Progress& progress) {
  Writer writer{description, progress, OutputFile(path), {}, {}, {}};
  writer.write_dense();
  writer.write_experts();
  writer.write_head();
  writer.file.commit();
}

}  // namespace hotset
