// Where sidecars lie, and when one is written by itself. Policy only: what a sidecar is, runtime
// knows.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/model/sidecar.h"

namespace hotset {

// MODEL.hotset for a file, FOLDER/model.hotset for a folder.
std::string sidecar_beside(const ModelDescription& description);

// Beside the model, then in the cache folder (named by the fingerprint), if there is one.
std::vector<std::string> sidecar_places(const ModelDescription& description);

struct SidecarSearch {
  std::unique_ptr<Sidecar> found;
  std::vector<std::string> refused;  // for each that is there and cannot be used: file and reason
};
// The first place with a sidecar that is whole (as far as its head says) and of this model. Damage
// found in it later is said on stderr, once, and the file removed: the next start makes it anew.
SidecarSearch find_sidecar(const ModelDescription& description,
                           const std::vector<std::string>& places);

struct SidecarLimits {
  uint64_t least_model_bytes = uint64_t{1}
                               << 30;  // smaller ones load in well under a second anyway
  double free_part = 0.2;              // of the disk, that is to be left over
};
// Finds one, or writes one to the first place that can take it (with a progress bar; Interrupted on
// Ctrl-C). Nothing where the model is too small or no place will do, which it says on stderr.
std::unique_ptr<Sidecar> find_or_write_sidecar(const ModelDescription& description,
                                               const std::vector<std::string>& places,
                                               const SidecarLimits& limits);

}  // namespace hotset
