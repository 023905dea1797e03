// Decoding of single UTF-8 characters, and the stream that turns token bytes into whole ones.
#include "runtime/tokenizer/utf8.h"

#include <cstdint>
#include <string>

#include "runtime/tokenizer/tokenizer.h"

namespace hotset {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Lead {
  size_t length;         // of the whole character; 0: not a first byte
  uint8_t low, high;     // range of the second byte: keeps out overlong forms and surrogates
  char32_t payload = 0;  // the first byte's share of the code point
};

Lead classify_lead(uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF, byte & 0x1Fu};
  if (byte >= 0xE0 && byte <= 0xEF) {
    const uint8_t low = byte == 0xE0 ? 0xA0 : 0x80;
    const uint8_t high = byte == 0xED ? 0x9F : 0xBF;
    return {3, low, high, byte & 0x0Fu};
  }
  if (byte >= 0xF0 && byte <= 0xF4) {
    const uint8_t low = byte == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = byte == 0xF4 ? 0x8F : 0xBF;
    return {4, low, high, byte & 0x07u};
  }
  return {0, 0, 0};
}

}  // namespace

Utf8Char decode_utf8(std::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  if (first < 0x80) return {first, 1, false};
  const Lead lead = classify_lead(first);
  if (lead.length == 0) return {};
  char32_t code_point = lead.payload;
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {kInvalidCodePoint, i, true};
    const auto byte = static_cast<uint8_t>(text[i]);
    const uint8_t low = i == 1 ? lead.low : 0x80, high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return {kInvalidCodePoint, i, false};
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {code_point, lead.length, false};
}

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string complete;
  size_t at = 0;
  while (at < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(at);
    const Utf8Char next = decode_utf8(rest);
    if (next.truncated) break;
    complete += next.code_point == kInvalidCodePoint ? kReplacement : rest.substr(0, next.length);
    at += next.length;
  }
  pending_.erase(0, at);
  return complete;
}

std::string Utf8Stream::finish() {
  // push() leaves nothing but the beginning of one character.
  std::string rest(pending_.empty() ? std::string_view() : kReplacement);
  pending_.clear();
  return rest;
}

}  // namespace hotset
