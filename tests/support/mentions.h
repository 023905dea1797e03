// What tests/data/bad/manifest.json asks of a message: a string must occur, of a list any one.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

namespace hotset {

inline bool mentions(const std::string& message, const nlohmann::json& wanted) {
  if (wanted.is_string()) return message.find(wanted.get<std::string>()) != std::string::npos;
  return std::any_of(wanted.begin(), wanted.end(),
                     [&](const nlohmann::json& any) { return mentions(message, any); });
}

}  // namespace hotset
