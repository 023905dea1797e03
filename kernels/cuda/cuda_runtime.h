// A real card: CardRuntime by CUDA's runtime API, on the first device that CUDA shows
// (CUDA_VISIBLE_DEVICES chooses). Needs no driver to link or to start.
#pragma once

#include <memory>
#include <string>

#include "kernels/cuda/card_runtime.h"

namespace hotset {

struct CudaCard {
  std::unique_ptr<CardRuntime> runtime;
  // If there is none: why, in one line with what to do, for a caller that goes on without.
  std::string reason;
};

// No driver, a driver too old, no card, a card too old, a build without CUDA: a reason. Everything
// else that is wrong is an Error.
CudaCard open_cuda_card();

}  // namespace hotset
