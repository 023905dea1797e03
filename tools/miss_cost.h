// What a miss costs on this machine: experts of a model, read and packed as a step does it.
#pragma once

#include <cstdint>

#include "runtime/engine.h"
#include "runtime/weights/model_description.h"

namespace hotset {

struct MissCost {
  double ms = 0;  // of one expert among the misses of a layer
  int64_t misses = 0;
};
// Events of a layer each that miss half of their picks, through the threads, the sidecar (if there
// is one) and the kind of reads that an engine with these options has. Takes about two seconds at
// most. Throws Error, or Interrupted.
MissCost measure_miss(const ModelDescription& description, const EngineOptions& options);

}  // namespace hotset
