// Reads the gzipped test data.
#pragma once

#include <zlib.h>

#include <array>
#include <stdexcept>
#include <string>

namespace hotset {

inline std::string gunzip(const std::string& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) throw std::runtime_error("cannot open " + path);
  std::string text;
  std::array<char, 1 << 16> buffer;
  int got = 0;
  while ((got = gzread(file, buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  if (gzclose(file) != Z_OK || got < 0) throw std::runtime_error("damaged: " + path);
  return text;
}

}  // namespace hotset
