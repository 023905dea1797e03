// What both sources of a vocabulary, GGUF metadata and tokenizer.json, have to check alike.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/tokenizer/vocabulary.h"

namespace hotset {

// "a b" at the first space after position 0; nothing if there is none or a side is empty.
std::optional<std::pair<std::string, std::string>> split_merge(std::string_view merge);

// Throws Error, beginning with `where` (file and key), if a merge's sides or product are no tokens.
void check_merges(const Vocabulary& vocabulary, const std::string& where);

}  // namespace hotset
