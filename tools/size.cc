#include "tools/size.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string_view>

namespace hotset {
namespace {

struct Unit {
  std::string_view name;
  double bytes;
};
constexpr std::array<Unit, 10> kUnits = {{{"", 1},
                                          {"b", 1},
                                          {"kb", 1e3},
                                          {"mb", 1e6},
                                          {"gb", 1e9},
                                          {"tb", 1e12},
                                          {"kib", 1024.0},
                                          {"mib", 1024.0 * 1024},
                                          {"gib", 1024.0 * 1024 * 1024},
                                          {"tib", 1024.0 * 1024 * 1024 * 1024}}};
constexpr double kMaxBytes = 9e18;

}  // namespace

std::optional<Size> Size::parse(const std::string& text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(value) || value < 0) return {};
  std::string unit(rest, end);
  unit.erase(0, std::min(unit.find_first_not_of(' '), unit.size()));
  std::transform(unit.begin(), unit.end(), unit.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  if (unit == "%") return Size(value, true);
  for (const Unit& known : kUnits) {
    if (unit != known.name) continue;
    if (value * known.bytes > kMaxBytes) return {};
    return Size(value * known.bytes, false);
  }
  return {};
}

int64_t Size::bytes_of(int64_t whole) const {
  if (!is_percent_) return static_cast<int64_t>(value_);
  if (value_ >= 100) return whole;
  return static_cast<int64_t>(value_ / 100 * static_cast<double>(whole));
}

std::string human_bytes(int64_t bytes) {
  constexpr std::array<const char*, 5> kNames = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  // Below the value that would be rounded up to four digits.
  while (value >= 999.5 && unit + 1 < kNames.size()) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", bytes);
  return fmt::format("{:.{}f} {}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, kNames[unit]);
}

}  // namespace hotset
