// Finds added tokens in raw text: leftmost, longest first.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/tokenizer/vocabulary.h"

namespace hotset {

class AddedTokenFinder {
 public:
  struct Match {
    size_t begin = std::string_view::npos;  // npos: none
    size_t length = 0;
    int32_t id = -1;
  };

  AddedTokenFinder();
  // Of two tokens with the same text the first added is found.
  void add(const AddedToken& token);
  // The first match at or after `from`; special tokens count only if `with_specials`.
  Match find(std::string_view text, size_t from, bool with_specials) const;
  // The id of the token that is exactly `text`, or -1.
  int32_t id(std::string_view text) const;

 private:
  struct Node {
    int32_t id = -1;  // of the token that ends here
    bool special = false;
  };
  // The node after `byte`, or 0 (the root, which nothing leads to).
  uint32_t step(uint32_t node, char byte) const;

  std::vector<Node> nodes_;  // a trie over bytes; edges are (node, byte) -> node
  std::unordered_map<uint64_t, uint32_t> edges_;
  std::array<bool, 256> begins_token_{};
};

}  // namespace hotset
