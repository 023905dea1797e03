// Each rule is a function that matches the regex's alternatives in order at one place. Where a
// greedy part would have to give characters back, the comment says why the shortcut is the same.
#include "runtime/tokenizer/split.h"

#include <unicode/uchar.h>

#include <cstdint>
#include <span>

#include "runtime/tokenizer/utf8.h"

namespace hotset {
namespace {

enum Flags : uint16_t {
  kLetter = 1 << 0,       // \p{L}
  kNumber = 1 << 1,       // \p{N}
  kSpace = 1 << 2,        // \s, that is White_Space
  kNewline = 1 << 3,      // [\r\n]
  kMark = 1 << 4,         // \p{M}
  kPunctuation = 1 << 5,  // [\p{P}\p{S}]
  kUpper = 1 << 6,        // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
  kLower = 1 << 7,        // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
  kSlash = 1 << 8,
};

struct Unit {
  size_t offset;  // in the text
  char32_t code_point;
  uint16_t flags;
};

uint16_t classify(char32_t code_point) {
  if (code_point == kInvalidCodePoint) return 0;
  const auto c = static_cast<UChar32>(code_point);
  const uint32_t category = U_GET_GC_MASK(c);
  const auto flag = [&](uint32_t mask, Flags value) { return (category & mask) != 0 ? value : 0; };
  constexpr uint32_t kBothCases = U_GC_LM_MASK | U_GC_LO_MASK | U_GC_M_MASK;
  int flags = flag(U_GC_L_MASK, kLetter) | flag(U_GC_N_MASK, kNumber) | flag(U_GC_M_MASK, kMark) |
              flag(U_GC_P_MASK | U_GC_S_MASK, kPunctuation) |
              flag(U_GC_LU_MASK | U_GC_LT_MASK | kBothCases, kUpper) |
              flag(U_GC_LL_MASK | kBothCases, kLower);
  if (u_isUWhiteSpace(c)) flags |= kSpace;
  if (c == '\r' || c == '\n') flags |= kNewline;
  if (c == '/') flags |= kSlash;
  return static_cast<uint16_t>(flags);
}

// A stretch of the text that a rule sees as all there is.
struct View {
  std::span<const Unit> units;

  size_t end() const { return units.size(); }
  char32_t at(size_t i) const { return i < end() ? units[i].code_point : kInvalidCodePoint; }
  bool is(size_t i, int flags) const { return i < end() && (units[i].flags & flags) != 0; }
  bool is_not(size_t i, int flags) const { return i < end() && (units[i].flags & flags) == 0; }
  size_t run(size_t i, int flags) const {
    while (is(i, flags)) ++i;
    return i;
  }
  size_t run_not(size_t i, int flags) const {
    while (is_not(i, flags)) ++i;
    return i;
  }
};

// The matchers return the end of the match that begins at i, or i for none.

enum class Case { kSensitive, kFolded };

// 's|'t|'re|'ve|'m|'ll|'d
size_t match_contraction(const View& view, size_t i, Case letter_case) {
  if (view.at(i) != '\'') return i;
  const auto letter = [&](size_t k) -> char32_t {
    const char32_t c = view.at(k);
    if (letter_case == Case::kSensitive) return c;
    if (c == 0x17F) return 's';  // the long s folds to s
    return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
  };
  const char32_t first = letter(i + 1), second = letter(i + 2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return i + 2;
  const bool two =
      ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l');
  return two ? i + 3 : i;
}

// \s*[\r\n]+|\s+(?!\S)|\s+
size_t match_whitespace(const View& view, size_t i) {
  const size_t end = view.run(i, kSpace);
  // The greedy \s* gives back up to the last newline of the run, which is where [\r\n]+ ends.
  for (size_t k = end; k > i; --k) {
    if (view.is(k - 1, kNewline)) return k;
  }
  // Before a non-space, \s+(?!\S) leaves the last space to the next match if it keeps one itself.
  if (end < view.end() && end > i + 1) return end - 1;
  return end;
}

// " ?[^\s\p{L}\p{N}]+", then any of `trailing`
size_t match_other(const View& view, size_t i, int trailing) {
  const size_t begin = view.at(i) == ' ' ? i + 1 : i;
  const size_t end = view.run_not(begin, kSpace | kLetter | kNumber);
  return end == begin ? i : view.run(end, trailing);
}

size_t match_number(const View& view, size_t i, size_t max_digits) {
  size_t end = i;
  while (end < i + max_digits && view.is(end, kNumber)) ++end;
  return end;
}

size_t match_gpt2(const View& view, size_t i) {
  size_t end = match_contraction(view, i, Case::kSensitive);
  if (end > i) return end;
  const size_t begin = view.at(i) == ' ' ? i + 1 : i;
  for (const int flags : {kLetter, kNumber}) {
    end = view.run(begin, flags);
    if (end > begin) return end;
  }
  end = match_other(view, i, 0);
  if (end > i) return end;
  // This rule has no alternative of its own for newlines.
  end = view.run(i, kSpace);
  return end < view.end() && end > i + 1 ? end - 1 : end;
}

size_t match_qwen2(const View& view, size_t i) {
  size_t end = match_contraction(view, i, Case::kFolded);
  if (end > i) return end;
  // [^\r\n\p{L}\p{N}]?\p{L}+ : the optional character is no letter, so giving it back cannot help.
  const size_t begin = view.is_not(i, kNewline | kLetter | kNumber) ? i + 1 : i;
  end = view.run(begin, kLetter);
  if (end > begin) return end;
  if (view.is(i, kNumber)) return i + 1;
  end = match_other(view, i, kNewline);
  return end > i ? end : match_whitespace(view, i);
}

// P?U*W+C?|P?U+W*C? : the two alternatives of gpt-oss's regex for words.
size_t match_gpt4o_word(const View& view, size_t i) {
  const size_t begins[] = {i + 1, i};  // with P, then without
  const bool has_prefix = view.is_not(i, kNewline | kLetter | kNumber);
  const std::span<const size_t> tries = std::span(begins).subspan(has_prefix ? 0 : 1);
  for (const size_t begin : tries) {
    const size_t upper_end = view.run(begin, kUpper);
    size_t end = view.run(upper_end, kLower);
    if (end == upper_end) {
      // U* gives back until W+ finds a character that is both; that is the last such in the run.
      while (end > begin && !view.is(end - 1, kLower)) --end;
    }
    if (end > begin) return match_contraction(view, end, Case::kFolded);
  }
  for (const size_t begin : tries) {
    // No W follows the run, or the first alternative would have matched.
    const size_t end = view.run(begin, kUpper);
    if (end > begin) return match_contraction(view, end, Case::kFolded);
  }
  return i;
}

size_t match_gpt4o(const View& view, size_t i) {
  size_t end = match_gpt4o_word(view, i);
  if (end > i) return end;
  end = match_number(view, i, 3);
  if (end > i) return end;
  end = match_other(view, i, kNewline | kSlash);
  return end > i ? end : match_whitespace(view, i);
}

size_t match_deepseek_cjk(const View& view, size_t i) {
  const auto is_cjk = [](char32_t c) {
    return (c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF);
  };
  while (is_cjk(view.at(i))) ++i;
  return i;
}

size_t match_deepseek_rest(const View& view, size_t i) {
  const char32_t c = view.at(i);
  const auto is_ascii_letter = [](char32_t x) {
    return (x >= 'A' && x <= 'Z') || (x >= 'a' && x <= 'z');
  };
  if (c < 0x80 && view.is(i, kPunctuation)) {
    size_t end = i + 1;
    while (is_ascii_letter(view.at(end))) ++end;
    if (end > i + 1) return end;
  }
  // [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+ : the optional character may be a mark, which then is the
  // match itself where no letter or mark follows.
  const size_t begin = view.is_not(i, kNewline | kLetter | kPunctuation) ? i + 1 : i;
  size_t end = view.run(begin, kLetter | kMark);
  if (end > begin) return end;
  if (view.is(i, kMark)) return i + 1;
  const size_t symbols = c == ' ' ? i + 1 : i;
  end = view.run(symbols, kPunctuation);
  return end > symbols ? view.run(end, kNewline) : match_whitespace(view, i);
}

// Calls emit(view) for every match and for every stretch between two matches.
template <typename Match, typename Emit>
void isolate(const View& view, const Match& match, const Emit& emit) {
  const auto emit_units = [&](size_t begin, size_t end) {
    if (begin < end) emit(View{view.units.subspan(begin, end - begin)});
  };
  size_t done = 0;
  for (size_t i = 0; i < view.end();) {
    const size_t end = match(view, i);
    if (end == i) {
      ++i;
      continue;
    }
    emit_units(done, i);
    emit_units(i, end);
    done = i = end;
  }
  emit_units(done, view.end());
}

template <typename Emit>
void isolate_deepseek(const View& text, const Emit& emit) {
  const auto match_digits = [](const View& view, size_t i) { return match_number(view, i, 3); };
  isolate(text, match_digits, [&](const View& outer) {
    isolate(outer, match_deepseek_cjk,
            [&](const View& inner) { isolate(inner, match_deepseek_rest, emit); });
  });
}

}  // namespace

std::vector<std::string_view> split_text(SplitRule rule, std::string_view text) {
  std::vector<Unit> units;
  units.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = decode_utf8(text.substr(at));
    units.push_back({at, next.code_point, classify(next.code_point)});
    at += next.length;
  }
  std::vector<std::string_view> pieces;
  const auto emit = [&](const View& piece) {
    const auto next = static_cast<size_t>(&piece.units.back() - units.data()) + 1;
    const size_t begin = piece.units.front().offset;
    const size_t end = next < units.size() ? units[next].offset : text.size();
    pieces.push_back(text.substr(begin, end - begin));
  };
  const View all{units};
  switch (rule) {
    case SplitRule::kGpt2:
      isolate(all, match_gpt2, emit);
      break;
    case SplitRule::kQwen2:
      isolate(all, match_qwen2, emit);
      break;
    case SplitRule::kGpt4o:
      isolate(all, match_gpt4o, emit);
      break;
    case SplitRule::kDeepseekV3:
      isolate_deepseek(all, emit);
      break;
  }
  return pieces;
}

}  // namespace hotset
