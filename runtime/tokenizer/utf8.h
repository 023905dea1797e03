// Strict UTF-8, one character at a time, over bytes that may be anything.
#pragma once

#include <cstddef>
#include <string_view>

namespace hotset {

inline constexpr char32_t kInvalidCodePoint = 0xFFFFFFFF;

struct Utf8Char {
  char32_t code_point = kInvalidCodePoint;
  // Bytes taken. For an invalid one: as many as could have begun a character, at least one.
  size_t length = 1;
  bool truncated = false;  // invalid only because the text ends here
};

// The character that `text`, which is not empty, begins with.
Utf8Char decode_utf8(std::string_view text);

}  // namespace hotset
