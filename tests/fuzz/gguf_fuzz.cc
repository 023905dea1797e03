// Any bytes as a GGUF file: described, or refused by an Error.
// Seeds: tests/data/bad/good/model.gguf and tests/data/bad/gguf.
#include "kernels/check.h"
#include "runtime/weights/verify.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const hotset::MemoryFile file(data, size);
  try {
    hotset::verify_weights(hotset::open_model(file.path()));
  } catch (const hotset::Error&) {
  }
  return 0;
}
