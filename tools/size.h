// Sizes as people write them: "16GiB", "16GB", "50%", "1234". Parsing only; what a percentage is
// of, the caller knows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace hotset {

class Size {
 public:
  // Nothing if `text` is not a size: a number, then one of B, kB, MB, GB, TB (powers of 1000), KiB,
  // MiB, GiB, TiB, % or nothing (bytes). Letters' case does not matter.
  static std::optional<Size> parse(const std::string& text);

  bool is_percent() const { return is_percent_; }
  // In bytes, where 100 % is `whole`. Percentages over 100 are the whole.
  int64_t bytes_of(int64_t whole) const;

 private:
  Size(double value, bool is_percent) : value_(value), is_percent_(is_percent) {}
  double value_;  // bytes, or percent
  bool is_percent_;
};

// "1.77 MB", "43.5 GB": three digits, powers of 1000 as the documentation counts them.
std::string human_bytes(int64_t bytes);

}  // namespace hotset
