// The dense weights in a card's memory.
#pragma once

#include "kernels/cuda/card_runtime.h"
#include "runtime/model/weights.h"

namespace hotset {

// Views of `weights` as they lie in a copy of the image at `image`; owns nothing.
Weights weights_at(const Weights& weights, std::byte* image);

}  // namespace hotset
