// Unicode normalisation form C, for the tokenizers whose file asks for it.
#pragma once

#include <string>
#include <string_view>

namespace hotset {

// NFC of `text`; bytes that are not UTF-8 stay as they are, and characters on their two sides do
// not combine. Time is n log n in the worst case.
std::string to_nfc(std::string_view text);

}  // namespace hotset
