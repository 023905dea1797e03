// Experts from a sidecar: one read straight into the slot, checked on the way. One that is damaged
// there is packed from the model's file instead.
#pragma once

#include "runtime/model/expert_file_source.h"
#include "runtime/model/sidecar.h"

namespace hotset {

class ExpertSidecarSource : public ExpertSource {
 public:
  ExpertSidecarSource(Sidecar& sidecar, ExpertFileSource& file) : sidecar_(sidecar), file_(file) {}

  int32_t layer_count() const override { return file_.layer_count(); }
  int32_t experts_per_layer() const override { return file_.experts_per_layer(); }
  int64_t expert_bytes(int32_t layer) const override { return file_.expert_bytes(layer); }
  int64_t load(ExpertId id, std::span<std::byte> slot) override {
    return sidecar_.read_expert(id, slot) ? std::ssize(slot) : file_.load(id, slot);
  }
  void expect(ExpertId id) override { sidecar_.expect_expert(id); }

 private:
  Sidecar& sidecar_;
  ExpertFileSource& file_;
};

}  // namespace hotset
