// The trie of added tokens.
#include "runtime/tokenizer/added_tokens.h"

namespace hotset {
namespace {

uint64_t edge_key(uint32_t node, char byte) {
  return (static_cast<uint64_t>(node) << 8) | static_cast<unsigned char>(byte);
}

}  // namespace

AddedTokenFinder::AddedTokenFinder() : nodes_(1) {}

void AddedTokenFinder::add(const AddedToken& token) {
  uint32_t node = 0;
  for (const char byte : token.text) {
    const auto fresh = static_cast<uint32_t>(nodes_.size());
    const auto [edge, inserted] = edges_.try_emplace(edge_key(node, byte), fresh);
    if (inserted) nodes_.emplace_back();
    node = edge->second;
  }
  if (nodes_[node].id >= 0) return;
  nodes_[node] = {token.id, token.special};
  begins_token_[static_cast<unsigned char>(token.text[0])] = true;
}

uint32_t AddedTokenFinder::step(uint32_t node, char byte) const {
  const auto edge = edges_.find(edge_key(node, byte));
  return edge == edges_.end() ? 0 : edge->second;
}

AddedTokenFinder::Match AddedTokenFinder::find(std::string_view text, size_t from,
                                               bool with_specials) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!begins_token_[static_cast<unsigned char>(text[begin])]) continue;
    Match longest;
    uint32_t node = 0;
    for (size_t i = begin; i < text.size(); ++i) {
      node = step(node, text[i]);
      if (node == 0) break;
      const Node& here = nodes_[node];
      if (here.id >= 0 && (with_specials || !here.special)) {
        longest = {begin, i + 1 - begin, here.id};
      }
    }
    if (longest.id >= 0) return longest;
  }
  return {};
}

int32_t AddedTokenFinder::id(std::string_view text) const {
  uint32_t node = 0;
  for (const char byte : text) {
    node = step(node, byte);
    if (node == 0) return -1;
  }
  return nodes_[node].id;
}

}  // namespace hotset
