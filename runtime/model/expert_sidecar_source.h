// Experts from a sidecar: whole pages, straight into the slot where one is at hand. Who reads a
// part checks it, while it is in that core's caches; one that is damaged comes from the model's
// file instead.
#pragma once

#include "runtime/model/expert_file_source.h"
#include "runtime/model/sidecar.h"

namespace hotset {

class ExpertSidecarSource : public ExpertSource {
 public:
  ExpertSidecarSource(Sidecar& sidecar, ExpertFileSource& file, FileReads reads)
      : sidecar_(sidecar), file_(file), reads_(reads), landing_file_(sidecar.file(), reads) {}

  int32_t layer_count() const override { return file_.layer_count(); }
  int32_t experts_per_layer() const override { return file_.experts_per_layer(); }
  int64_t expert_bytes(int32_t layer) const override { return file_.expert_bytes(layer); }
  int64_t load(ExpertId id, std::span<std::byte> slot) override;
  int32_t parts() const override { return kExpertParts; }
  int64_t landing_bytes() const override;
  int64_t read(ExpertId id, int32_t part, std::byte* landing) override;
  int32_t pack_tasks() const override { return kExpertParts; }
  void pack(ExpertId id, int32_t task, const std::byte* landing,
            std::span<std::byte> slot) override;
  bool lands_packed() const override { return true; }
  void expect(ExpertId id) override {
    if (reads_ == FileReads::kBuffered) sidecar_.expect_expert(id);
  }

 private:
  Sidecar& sidecar_;
  ExpertFileSource& file_;
  const FileReads reads_;
  const LandingFile landing_file_;
};

}  // namespace hotset
