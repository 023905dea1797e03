// The steps of byte-level BPE in order, over tables that the constructor derives from a Vocabulary.
#include "runtime/tokenizer/tokenizer.h"

#include <array>
#include <limits>
#include <unordered_map>

#include "kernels/check.h"
#include "runtime/tokenizer/added_tokens.h"
#include "runtime/tokenizer/byte_alphabet.h"
#include "runtime/tokenizer/merge_table.h"
#include "runtime/tokenizer/normalize.h"
#include "runtime/tokenizer/split.h"
#include "runtime/tokenizer/vocabulary_checks.h"

namespace hotset {

struct Tokenizer::State {
  explicit State(Vocabulary from);

  void encode_text(std::string_view text, std::vector<int32_t>& out) const;
  void encode_piece(std::string_view piece, std::vector<int32_t>& out) const;
  bool contains(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < vocabulary.tokens.size();
  }

  Vocabulary vocabulary;
  std::vector<std::string> bytes;  // id -> what it decodes to
  std::vector<bool> special;       // id -> is a control token
  std::array<int32_t, 256> byte_ids{};
  MergeTable merges;
  std::unordered_map<std::string_view, int32_t> whole_pieces;  // into `bytes`; if ignore_merges
  AddedTokenFinder added;

 private:
  void index_tokens();
  void index_merges();
};

Tokenizer::State::State(Vocabulary from) : vocabulary(std::move(from)) {
  if (vocabulary.tokens.size() > std::numeric_limits<int32_t>::max()) {
    throw Error("tokenizer: found " + std::to_string(vocabulary.tokens.size()) +
                " tokens, expected a count that fits 31 bits");
  }
  index_tokens();
  index_merges();
}

void Tokenizer::State::index_tokens() {
  const size_t count = vocabulary.tokens.size();
  const ByteAlphabet alphabet;
  bytes.resize(count);
  special.resize(count);
  std::vector<bool> is_added(count);
  for (const AddedToken& token : vocabulary.added) {
    if (!contains(token.id) || token.text.empty()) {
      throw Error("tokenizer: added token \"" + token.text + "\" has id " +
                  std::to_string(token.id) + ", expected a text and an id below " +
                  std::to_string(count));
    }
    const auto id = static_cast<size_t>(token.id);
    bytes[id] = token.text;
    special[id] = token.special;
    is_added[id] = true;
    added.add(token);
  }
  for (size_t id = 0; id < count; ++id) {
    if (is_added[id]) continue;
    const std::string& token = vocabulary.tokens[id];
    bytes[id] = alphabet.bytes(token).value_or(token);
    // An added token is never taken as a whole piece: a control token must not come from user text.
    if (vocabulary.ignore_merges && !token.empty()) {
      whole_pieces.try_emplace(bytes[id], static_cast<int32_t>(id));
    }
  }
}

void Tokenizer::State::index_merges() {
  check_merges(vocabulary, "tokenizer");
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(vocabulary.tokens.size());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    ids.try_emplace(vocabulary.tokens[id], static_cast<int32_t>(id));
  }
  const ByteAlphabet alphabet;
  for (size_t byte = 0; byte < byte_ids.size(); ++byte) {
    const auto at = ids.find(alphabet.character(static_cast<unsigned char>(byte)));
    if (at == ids.end()) {
      throw Error("tokenizer: found no token for byte " + std::to_string(byte) +
                  ", expected one for each of the 256 (byte-level BPE)");
    }
    byte_ids[byte] = at->second;
  }
  merges.reserve(vocabulary.merges.size());
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const auto& [left, right] = vocabulary.merges[rank];
    merges.add(ids.at(left), ids.at(right), static_cast<int32_t>(rank), ids.at(left + right));
  }
}

void Tokenizer::State::encode_text(std::string_view text, std::vector<int32_t>& out) const {
  if (text.empty()) return;
  const std::string normal = vocabulary.nfc ? to_nfc(text) : std::string();
  for (const std::string_view piece :
       split_text(vocabulary.split, vocabulary.nfc ? normal : text)) {
    encode_piece(piece, out);
  }
}

void Tokenizer::State::encode_piece(std::string_view piece, std::vector<int32_t>& out) const {
  if (const auto whole = whole_pieces.find(piece); whole != whole_pieces.end()) {
    out.push_back(whole->second);
    return;
  }
  std::vector<int32_t> ids;
  ids.reserve(piece.size());
  for (const char byte : piece) ids.push_back(byte_ids[static_cast<unsigned char>(byte)]);
  merges.merge(ids);
  out.insert(out.end(), ids.begin(), ids.end());
}

Tokenizer::Tokenizer(Vocabulary vocabulary)
    : state_(std::make_unique<const State>(std::move(vocabulary))) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialTokens specials) const {
  std::vector<int32_t> ids;
  size_t done = 0;
  while (done < text.size()) {
    const auto match = state_->added.find(text, done, specials == SpecialTokens::kParse);
    if (match.id < 0) break;
    state_->encode_text(text.substr(done, match.begin - done), ids);
    ids.push_back(match.id);
    done = match.begin + match.length;
  }
  state_->encode_text(text.substr(done), ids);
  return ids;
}

std::string Tokenizer::token_bytes(int32_t id, bool with_specials) const {
  if (!state_->contains(id)) return "";
  const auto index = static_cast<size_t>(id);
  return state_->special[index] && !with_specials ? "" : state_->bytes[index];
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool with_specials) const {
  std::string text;
  for (const int32_t id : ids) text += token_bytes(id, with_specials);
  return text;
}

const Vocabulary& Tokenizer::vocabulary() const {
  return state_->vocabulary;
}

int32_t Tokenizer::size() const {
  return static_cast<int32_t>(state_->vocabulary.tokens.size());
}

bool Tokenizer::has_token(int32_t id) const {
  return state_->contains(id) && !state_->vocabulary.tokens[static_cast<size_t>(id)].empty();
}

int32_t Tokenizer::find_added(std::string_view text) const {
  return state_->added.id(text);
}

}  // namespace hotset
