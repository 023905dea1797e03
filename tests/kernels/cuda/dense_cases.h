// What tests of the card's kernels share: random inputs, comparison by bits.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace hotset::test {

inline std::vector<float> random_floats(int64_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(random);
  return x;
}

// What memory holds before anybody wrote it: 0xFF.
template <class T = float>
std::vector<T> unwritten(int64_t n) {
  std::vector<T> x(static_cast<size_t>(n));
  if (n > 0) std::memset(x.data(), 0xff, x.size() * sizeof(T));
  return x;
}

// Empty if both have the same bits; else the first place where they differ.
inline std::string difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return "sizes differ";
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) == 0) continue;
    return std::to_string(a[i]) + " and " + std::to_string(b[i]) + " at " + std::to_string(i) +
           " of " + std::to_string(a.size());
  }
  return "";
}

}  // namespace hotset::test
