// Checks of merges against tokens.
#include "runtime/tokenizer/vocabulary_checks.h"

#include <unordered_set>

#include "kernels/check.h"
#include "runtime/weights/messages.h"

namespace hotset {

std::optional<std::pair<std::string, std::string>> split_merge(std::string_view merge) {
  const size_t space = merge.find(' ', 1);
  if (space == std::string_view::npos || space + 1 == merge.size()) return std::nullopt;
  return std::pair(std::string(merge.substr(0, space)), std::string(merge.substr(space + 1)));
}

void check_merges(const Vocabulary& vocabulary, const std::string& where) {
  const std::unordered_set<std::string_view> tokens(vocabulary.tokens.begin(),
                                                    vocabulary.tokens.end());
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const auto& [left, right] = vocabulary.merges[rank];
    for (const std::string& part : {left, right, left + right}) {
      if (!part.empty() && tokens.contains(part)) continue;
      throw Error(where + ": merge " + std::to_string(rank) + " (\"" + printable(left) + "\", \"" +
                  printable(right) + "\"): found no token \"" + printable(part) +
                  "\", expected both sides and their product in the vocabulary");
    }
  }
}

}  // namespace hotset
