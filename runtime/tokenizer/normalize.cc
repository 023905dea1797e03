// NFC through ICU, kept from going quadratic on long runs of combining marks.
#include "runtime/tokenizer/normalize.h"

#include <unicode/normalizer2.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/check.h"
#include "runtime/tokenizer/utf8.h"

namespace hotset {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;  // ICU counts in int32

const icu::Normalizer2& nfc() {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* instance = icu::Normalizer2::getNFCInstance(status);
  if (U_FAILURE(status)) {
    throw Error(std::string("ICU has no NFC data (") + u_errorName(status) +
                "): reinstall the ICU runtime library");
  }
  return *instance;
}

void append_decomposed(const icu::Normalizer2& form, char32_t code_point,
                       std::vector<UChar32>& out) {
  const auto c = static_cast<UChar32>(code_point);
  icu::UnicodeString parts;
  if (!form.getDecomposition(c, parts)) {
    out.push_back(c);
    return;
  }
  for (int32_t i = 0; i < parts.length(); i = parts.moveIndex32(i, 1)) {
    out.push_back(parts.char32At(i));
  }
}

// ICU puts marks into canonical order by insertion, also where it only checks, and that takes a
// minute for a megabyte of alternating classes. So it is given text that is decomposed and in
// order, and only has to compose; quickCheck() does not reorder.
std::string normalize_valid(std::string_view text) {
  const icu::Normalizer2& form = nfc();
  UErrorCode status = U_ZERO_ERROR;
  const icu::StringPiece piece(text.data(), static_cast<int32_t>(text.size()));
  if (form.quickCheck(icu::UnicodeString::fromUTF8(piece), status) == UNORM_YES) {
    return std::string(text);
  }

  std::vector<UChar32> decomposed;
  decomposed.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = decode_utf8(text.substr(at));
    append_decomposed(form, next.code_point, decomposed);
    at += next.length;
  }
  const auto is_mark = [&](UChar32 c) { return form.getCombiningClass(c) != 0; };
  const auto by_class = [&](UChar32 a, UChar32 b) {
    return form.getCombiningClass(a) < form.getCombiningClass(b);
  };
  for (auto at = decomposed.begin(); at != decomposed.end();) {
    const auto begin = std::find_if(at, decomposed.end(), is_mark);
    at = std::find_if_not(begin, decomposed.end(), is_mark);
    std::stable_sort(begin, at, by_class);
  }
  const icu::UnicodeString ordered =
      icu::UnicodeString::fromUTF32(decomposed.data(), static_cast<int32_t>(decomposed.size()));
  std::string composed;
  form.normalize(ordered, status).toUTF8String(composed);
  if (U_FAILURE(status)) throw Error(std::string("NFC failed in ICU: ") + u_errorName(status));
  return composed;
}

}  // namespace

std::string to_nfc(std::string_view text) {
  const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  if (std::all_of(text.begin(), text.end(), is_ascii)) return std::string(text);
  if (text.size() > kMaxTextBytes) {
    throw Error("text to normalise has " + std::to_string(text.size()) +
                " bytes, expected at most " + std::to_string(kMaxTextBytes));
  }
  std::string out;
  size_t valid_begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = decode_utf8(text.substr(at));
    if (next.code_point == kInvalidCodePoint) {
      out += normalize_valid(text.substr(valid_begin, at - valid_begin));
      out += text.substr(at, next.length);
      valid_begin = at + next.length;
    }
    at += next.length;
  }
  return out + normalize_valid(text.substr(valid_begin));
}

}  // namespace hotset
