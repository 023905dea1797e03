// A check of an option's number. CLI::Range asks whether it is too small or too large, which
// "nan" is not.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>

namespace hotset {

inline CLI::Validator in_range(double least, double most) {
  const std::string range = fmt::format("{:g} to {:g}", least, most);
  const auto check = [=](const std::string& text) {
    double value = 0;
    const bool is_in = CLI::detail::lexical_cast(text, value) && value >= least && value <= most;
    return is_in ? std::string() : "found " + text + ", expected " + range;
  };
  return CLI::Validator(check, range, "");
}

}  // namespace hotset
