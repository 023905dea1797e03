// Packing a model into a sidecar (see sidecar.h): the dense part first, then experts, a slice of
// them at a time on all cores; the head last. A head that says "unfinished" comes before all, and
// an expert's checksum directly after it: whatever ends the process, the next one can continue.
#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/check.h"
#include "runtime/model/expert_file_source.h"
#include "runtime/model/sidecar.h"
#include "runtime/model/weights.h"
#include "runtime/weights/checksum.h"
#include "runtime/weights/keep_model.h"
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
  int64_t done = 0;               // bytes of the model, all of which but the embedding are read
  std::atomic<int64_t> kept = 0;  // experts that an earlier writer has packed

  // The image is packed in memory as a whole: a machine that is to run the model holds it anyway,
  // and a matrix's planes lie too far apart to be written window by window.
  void write_dense() {
    const Weights weights = load_image(
        description, nullptr, [&](int64_t read, int64_t) { progress(done = read, total_bytes()); });
    tables.exact_in_bf16 = weights.exact_in_bf16;
    begin(weights.image_bytes);
    for (int64_t at = 0; at < weights.image_bytes; at += kSidecarBlock) {
      const std::span<const std::byte> block(
          weights.memory.data() + at,
          static_cast<size_t>(std::min(kSidecarBlock, weights.image_bytes - at)));
      tables.dense_sums.push_back(Checksum().add(block).value());
      file.write(layout.dense_at + at, block);
      progress(done, total_bytes());
    }
  }

  // Takes over what an earlier writer left if it was to become the very same file.
  void begin(int64_t dense_bytes) {
    const int64_t experts = description.config.num_experts * std::ssize(description.layers);
    head.fingerprint = fingerprint_of(description);
    head.matrices = static_cast<uint32_t>(tables.exact_in_bf16.size());
    head.dense_bytes = static_cast<uint64_t>(dense_bytes);
    head.experts = static_cast<uint64_t>(experts);
    layout = SidecarLayout(description, head.matrices, dense_bytes);
    head.file_bytes = static_cast<uint64_t>(layout.file_bytes);
    tables.expert_sums.assign(experts * kExpertParts, 0);

    SidecarHead unfinished = head, found;
    unfinished.magic.back() = '0';
    const bool continues =
        file.read(0, std::as_writable_bytes(std::span(&found, 1))) && found == unfinished &&
        file.read(layout.expert_sums_at, std::as_writable_bytes(std::span(tables.expert_sums)));
    if (!continues) {
      tables.expert_sums.assign(experts * kExpertParts, 0);
      file.empty();
      file.write(0, std::as_bytes(std::span(&unfinished, 1)));
    }
  }

  void write_experts() {
    constexpr int64_t kSlice = 16;  // blobs in memory at once, and between two looks at Ctrl-C
    ExpertFileSource source(description, kSlice);
    const int64_t each = source.experts_per_layer(), experts = each * source.layer_count();
    const int64_t average = experts > 0 ? (total_bytes() - done) / experts : 0;
    std::vector<std::vector<std::byte>> blobs(kSlice);
    for (int64_t begin = 0; begin < experts; begin += kSlice) {
      std::atomic<int64_t> bytes = 0;
      tbb::parallel_for(begin, std::min(begin + kSlice, experts), [&](int64_t i) {
        const ExpertId id{static_cast<int32_t>(i / each), static_cast<int32_t>(i % each)};
        std::vector<std::byte>& blob = blobs[i - begin];
        // Zero: the padding between planes is summed and written, too.
        blob.assign(static_cast<size_t>(source.shapes()[id.layer].bytes), std::byte{});
        bytes += is_there(i, id, blob) ? average : write_expert(i, id, source, blob);
      });
      progress(done += bytes, total_bytes());
    }
  }

  bool is_there(int64_t i, ExpertId id, std::span<std::byte> blob) {
    const std::span<const uint64_t> noted = sums_of(i);
    if (noted[0] == 0) return false;
    const bool is_read = file.read(layout.expert_at(id), blob);
    if (is_read && std::ranges::equal(sum(blob), noted)) {
      ++kept;
      return true;
    }
    std::fill(blob.begin(), blob.end(), std::byte{});
    return false;
  }

  int64_t write_expert(int64_t i, ExpertId id, ExpertFileSource& source,
                       std::span<std::byte> blob) {
    const int64_t bytes = source.load(id, blob);
    std::ranges::copy(sum(blob), sums_of(i).begin());
    file.write(layout.expert_at(id), blob);
    file.write(layout.expert_sums_at + i * kExpertParts * sizeof(uint64_t),
               std::as_bytes(sums_of(i)));
    return bytes;
  }

  std::span<uint64_t> sums_of(int64_t i) {
    return std::span(tables.expert_sums).subspan(i * kExpertParts, kExpertParts);
  }

  static std::array<uint64_t, kExpertParts> sum(std::span<const std::byte> blob) {
    std::array<uint64_t, kExpertParts> sums;
    for (int32_t part = 0; part < kExpertParts; ++part) {
      const auto [begin, end] = expert_part(std::ssize(blob), part);
      sums[part] = Checksum().add(blob.subspan(begin, end - begin)).value();
    }
    return sums;
  }

  // Last: without it nothing is taken for a sidecar.
  void write_head() {
    head.checksum = head_checksum(head, tables);
    // The last blob's padding is part of the file.
    if (std::byte end{}; !file.read(head.file_bytes - 1, {&end, 1})) {
      file.write(head.file_bytes - 1, {&end, 1});
    }
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

int64_t write_sidecar(const ModelDescription& description, const std::string& path,
                      const Progress& progress) {
  check_keeps_model(description, path);
  Writer writer{description, progress, OutputFile(path, OutputFile::Remains::kRead), {}, {}, {}};
  try {
    writer.write_dense();
    writer.write_experts();
    writer.write_head();
    writer.file.commit();
  } catch (const Error&) {
    throw;
  } catch (...) {
    writer.file.keep();
    throw;
  }
  return writer.kept;
}

}  // namespace hotset
