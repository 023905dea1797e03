// Any bytes as model.safetensors of a folder whose other files are sound: described, or refused by
// an Error. Seeds: tests/data/bad/good/hf/model.safetensors and tests/data/bad/hf/st_*.
#include "kernels/check.h"
#include "runtime/weights/verify.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const hotset::FuzzFolder folder;
  static const bool prepared =
      (folder.add_sound("config.json"), folder.add_sound("tokenizer.json"), true);
  if (prepared) folder.write("model.safetensors", data, size);
  try {
    hotset::verify_weights(hotset::open_model(folder.path()));
  } catch (const hotset::Error&) {
  }
  return 0;
}
