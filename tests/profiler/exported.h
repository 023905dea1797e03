// Reads what the daemon writes: lines of its log, and metrics.
#pragma once

#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace hotset::test {

using nlohmann::json;

inline std::vector<json> lines_of(const std::string& path) {
  std::vector<json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
  return lines;
}

// The number after a metric's name and labels; -1: there is none.
inline double metric(const std::string& text, const std::string& name) {
  const size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
}

// Of a histogram without other labels than the model: how many values are at most `most` units; -1
// where no bucket ends there.
inline int64_t bucket_up_to(const std::string& text, const std::string& name, int64_t most,
                            double unit) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find("le=\"");
    if (!line.starts_with(name + "_bucket{") || line.find("+Inf") != std::string::npos) continue;
    if (std::llround(std::stod(line.substr(at + 4)) / unit) != most) continue;
    return std::stoll(line.substr(line.rfind(' ')));
  }
  return -1;
}

}  // namespace hotset::test
