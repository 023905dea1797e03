// Cuts text into the pieces inside which byte pairs are merged: the models' split regexes, written
// by hand over code points (as their tokenizer.json has them).
#pragma once

#include <string_view>
#include <vector>

#include "runtime/tokenizer/vocabulary.h"

namespace hotset {

// The pieces in order; put together they are `text`. A byte that is not UTF-8 counts as a character
// of no category. Linear time on any input.
std::vector<std::string_view> split_text(SplitRule rule, std::string_view text);

}  // namespace hotset
