// What prompts had computed of what had no slot on the card, in experts of a layer and step.
#pragma once

#include <cstdint>

namespace hotset {

struct PromptStats {
  int64_t copied = 0;        // into the ring, and computed on the card
  int64_t copied_bytes = 0;  // of these
  int64_t computed = 0;      // by the CPU
};

}  // namespace hotset
