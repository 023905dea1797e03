// The vocabulary that a GGUF file carries in its tokenizer.ggml.* keys.
#pragma once

#include "runtime/tokenizer/vocabulary.h"
#include "runtime/weights/gguf.h"

namespace hotset {

// Throws Error naming file and key. The caller handles a file without a vocabulary
// (tokenizer.ggml.model = no_vocab).
Vocabulary vocabulary_from_gguf(const GgufFile& file);

}  // namespace hotset
