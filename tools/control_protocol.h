// What goes over an engine's control socket: a line of JSON asks, a line of JSON answers.
//
//   {"command": "stats"}
//   {"command": "set", "settings": ["ram=8GiB"]}
//   {"command": "reload"}
//   -> {"ok": true, ...} or {"ok": false, "error": "...", "is_usage": true}
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/config.h"

namespace hotset {

enum class ControlCommand { kStats, kSet, kReload };

struct ControlRequest {
  ControlCommand command = ControlCommand::kStats;
  std::vector<std::string> settings;  // key=value, of kSet

  std::string line() const;  // with the newline
};

// Throws ConfigError for a line that is no request, which names what was found and expected.
ControlRequest parse_request(std::string_view line);

// The answer to a request that failed.
std::string refusal_line(const std::string& error, bool is_usage);

// Lines out of pieces of a stream, none longer than kMost bytes.
class LineBuffer {
 public:
  static constexpr size_t kMost = 8192;

  // False once a line is too long: nothing of it, or after it, is kept.
  bool push(std::string_view bytes);
  std::optional<std::string> next();  // without the newline

 private:
  std::string bytes_;
  size_t unfinished_ = 0;  // bytes of the last line
};

}  // namespace hotset
