// The 256 characters that stand for bytes in byte-level vocabularies (bytes_to_unicode of
// GPT-2's encoder.py).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace hotset {

class ByteAlphabet {
 public:
  ByteAlphabet();

  // UTF-8 of the character that stands for `byte`.
  std::string_view character(unsigned char byte) const { return characters_[byte]; }
  // The bytes that `token` spells; nothing if one of its characters stands for no byte.
  std::optional<std::string> bytes(std::string_view token) const;

 private:
  static constexpr char32_t kFirstShifted = 0x100;  // the bytes without a character of their own
  static constexpr size_t kShiftedCount = 68;

  std::array<std::string, 256> characters_;
  std::array<bool, 256> stands_for_itself_{};
  std::array<unsigned char, kShiftedCount> shifted_{};
};

}  // namespace hotset
