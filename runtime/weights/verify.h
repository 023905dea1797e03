// Reading every weight of a model once to see that it is finite: what `hotset inspect --verify`
// does.
#pragma once

#include <functional>

#include "runtime/weights/model_description.h"

namespace hotset {

// Called now and then with the bytes read so far and those to read in all.
using VerifyProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

// Reads all matrices through a window of a few MB. Throws Error naming file, tensor and block if a
// block's scale (a float type's element) is not finite.
void verify_weights(const ModelDescription& model, const VerifyProgress& progress = {});

}  // namespace hotset
