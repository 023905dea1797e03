// Construction and inversion of the byte alphabet.
#include "runtime/tokenizer/byte_alphabet.h"

#include "runtime/tokenizer/utf8.h"

namespace hotset {

ByteAlphabet::ByteAlphabet() {
  size_t shifted_count = 0;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    stands_for_itself_[byte] = printable;
    if (!printable) shifted_[shifted_count++] = static_cast<unsigned char>(byte);
    const char32_t c = printable ? byte : kFirstShifted + static_cast<char32_t>(shifted_count) - 1;
    if (c < 0x80) {
      characters_[byte] = {static_cast<char>(c)};
    } else {  // all are below U+0800
      characters_[byte] = {static_cast<char>(0xC0 | (c >> 6)),
                           static_cast<char>(0x80 | (c & 0x3F))};
    }
  }
}

std::optional<std::string> ByteAlphabet::bytes(std::string_view token) const {
  std::string bytes;
  bytes.reserve(token.size());
  while (!token.empty()) {
    const Utf8Char next = decode_utf8(token);
    const char32_t c = next.code_point;
    if (c < 256 && stands_for_itself_[c]) {
      bytes += static_cast<char>(c);
    } else if (c >= kFirstShifted && c < kFirstShifted + kShiftedCount) {
      bytes += static_cast<char>(shifted_[c - kFirstShifted]);
    } else {
      return std::nullopt;
    }
    token.remove_prefix(next.length);
  }
  return bytes;
}

}  // namespace hotset
