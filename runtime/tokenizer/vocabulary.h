// What a byte-level BPE tokenizer is made of, from GGUF metadata or tokenizer.json. Plain data;
// Tokenizer does the work.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace hotset {

enum class SplitRule { kGpt2, kQwen2, kGpt4o, kDeepseekV3 };  // split.h

struct AddedToken {
  int32_t id = 0;
  std::string text;      // raw UTF-8, matched in raw text, longest first
  bool special = false;  // control token: parsed only where the caller allows it, no text when
                         // decoded unless asked for
};

struct Vocabulary {
  std::vector<std::string>
      tokens;  // id -> token in the byte-level alphabet; "" for an id without a token
  std::vector<std::pair<std::string, std::string>> merges;  // in rank order
  std::vector<AddedToken> added;                            // their text is also in tokens
  SplitRule split = SplitRule::kQwen2;
  bool nfc = false;            // normalise text to NFC first
  bool ignore_merges = false;  // a piece that is a token is taken whole
  int32_t bos_id = -1, eos_id = -1;
  bool add_bos = false;
};

}  // namespace hotset
