// Byte-level BPE: split off added tokens, normalise, pre-split, map bytes to characters, merge
// (Sennrich et al., arXiv 1508.07909). Immutable and thread-safe after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/vocabulary.h"

namespace hotset {

enum class SpecialTokens {
  kParse,      // control tokens spelled in the text become their ids (template text)
  kPlainText,  // they are ordinary text (what a user typed); non-special added tokens are still
               // recognised
};

class Tokenizer {
 public:
  explicit Tokenizer(Vocabulary vocabulary);  // throws Error if a merge names an unknown piece, ...
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  // Ids of `text` (any bytes: invalid UTF-8 goes through byte by byte). Adds no BOS.
  std::vector<int32_t> encode(std::string_view text, SpecialTokens specials) const;
  // The bytes of one token ("" for an id without one); control tokens give "" unless
  // `with_specials`.
  std::string token_bytes(int32_t id, bool with_specials = false) const;
  // Bytes of all tokens, undecodable ones as they are.
  std::string decode(const std::vector<int32_t>& ids, bool with_specials = false) const;

  const Vocabulary& vocabulary() const;
  int32_t size() const;                             // number of ids, with gaps
  bool has_token(int32_t id) const;                 // an id that may be sampled
  int32_t find_added(std::string_view text) const;  // id, or -1

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

// Turns tokens into text as they come: holds back bytes of an incomplete character; a byte that
// cannot be part of one becomes U+FFFD.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);  // the longest complete prefix
  std::string finish();                      // what is undecided becomes U+FFFD

 private:
  std::string pending_;
};

// Reads tokenizer.json; throws Error naming file and key. `model_vocab_size`: ids must be below it
// (0: unchecked).
Vocabulary read_tokenizer_json(const std::string& path, int64_t model_vocab_size);

}  // namespace hotset
