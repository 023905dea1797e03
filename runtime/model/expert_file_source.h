// Experts straight from the model file: an expert's gate, up and down are three ranges, read at
// once by as many threads and packed into the slot.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "cache/expert_source.h"
#include "kernels/memory.h"
#include "kernels/packed.h"
#include "runtime/weights/landing_file.h"
#include "runtime/weights/model_description.h"

namespace hotset {

// Packed shapes of the experts of each layer. Throws Error where a layer's differ.
std::vector<ExpertShape> expert_shapes(const ModelDescription& description);

class ExpertFileSource : public ExpertSource {
 public:
  // `loads`, `reads`: how many load() and read() calls may be under way at once without allocating.
  // Direct reads go past the page cache whoever reads: filled through it, a model that does not fit
  // keeps the system short of memory, so that the tier shrinks.
  ExpertFileSource(const ModelDescription& description, int loads, int reads = 1,
                   FileReads file_reads = FileReads::kBuffered);

  int32_t layer_count() const override { return static_cast<int32_t>(description_.layers.size()); }
  int32_t experts_per_layer() const override {
    return static_cast<int32_t>(description_.config.num_experts);
  }
  // Whole pages, so that a disk can write into a slot; the packed expert begins there.
  int64_t expert_bytes(int32_t layer) const override;
  int64_t load(ExpertId id, std::span<std::byte> slot) override;
  int32_t parts() const override { return 3; }
  int64_t landing_bytes() const override { return 3 * part_bytes_; }
  int64_t read(ExpertId id, int32_t part, std::byte* landing) override;
  int32_t pack_tasks() const override { return 3 * kPiecesOfAPart; }
  void pack(ExpertId id, int32_t task, const std::byte* landing,
            std::span<std::byte> slot) override;
  void expect(ExpertId id) override;

  const std::vector<ExpertShape>& shapes() const { return shapes_; }  // by layer

 private:
  // Packing three parts whole would leave one of two threads idle for a quarter of the time.
  static constexpr int32_t kPiecesOfAPart = 4;

  const LandingFile& file_of(const RowRange& range) const;
  const MatrixSource& matrix(ExpertId id, int32_t part) const;
  std::pair<const PackedShape&, int64_t> place(ExpertId id, int32_t part) const;
  Memory new_staging() const;
  template <class Body>
  void with_staging(const Body& body);

  const ModelDescription& description_;
  std::vector<ExpertShape> shapes_;
  std::vector<LandingFile> files_;
  const FileReads file_reads_;
  int64_t staging_bytes_ =
      0;                    // the largest matrix in source form; where reads are direct a landing
  int64_t part_bytes_ = 0;  // of a landing: the largest matrix, wherever its ranges begin

  // Buffers, one for each load under way. All exist from the start: which thread happens to
  // load beside which is chance, and a token must not allocate.
  std::mutex mutex_;
  std::vector<Memory> idle_;
};

}  // namespace hotset
