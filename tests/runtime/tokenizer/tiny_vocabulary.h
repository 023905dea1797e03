// A complete byte-level vocabulary small enough to reason about in a test: id = byte for the first
// 256, then "th" (256), "the" (257), <|endoftext|> (258), <|im_start|> (259), <|im_end|> (260), all
// special, and <think> (261), which is not. 262 is a gap, 263 is "e the".
#pragma once

#include <string>

#include "runtime/tokenizer/byte_alphabet.h"
#include "runtime/tokenizer/vocabulary.h"

namespace hotset {

inline Vocabulary tiny_vocabulary() {
  Vocabulary vocabulary;
  const ByteAlphabet alphabet;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.emplace_back(alphabet.character(static_cast<unsigned char>(byte)));
  }
  const std::string space(alphabet.character(' '));
  vocabulary.merges = {{"t", "h"}, {"th", "e"}};
  vocabulary.added = {{258, "<|endoftext|>", true},
                      {259, "<|im_start|>", true},
                      {260, "<|im_end|>", true},
                      {261, "<think>", false}};
  for (const char* token :
       {"th", "the", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"}) {
    vocabulary.tokens.emplace_back(token);
  }
  vocabulary.tokens.emplace_back();
  vocabulary.tokens.push_back("e" + space + "the");
  return vocabulary;
}

}  // namespace hotset
