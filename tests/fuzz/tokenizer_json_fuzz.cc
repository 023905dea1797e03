// Any bytes as tokenizer.json: a tokenizer that encodes and decodes, or an Error.
// Seeds: tokenizer.json of tests/data/bad/good/hf, tests/data/bad/hf/tokenizer_* and
// tests/data/models.
#include "kernels/check.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const hotset::MemoryFile file(data, size);
  try {
    const hotset::Tokenizer tokenizer(hotset::read_tokenizer_json(file.path(), 320));
    tokenizer.decode(tokenizer.encode("the\xff 12", hotset::SpecialTokens::kParse));
  } catch (const hotset::Error&) {
  }
  return 0;
}
