#include "tools/control_protocol.h"

#include <fmt/format.h>

#include "runtime/weights/messages.h"

namespace hotset {
namespace {

using nlohmann::json;

constexpr std::string_view kNames[] = {"stats", "set", "reload"};

ControlCommand command_named(const std::string& name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) return static_cast<ControlCommand>(i);
  }
  throw ConfigError(fmt::format("control: found command \"{}\", expected one of {}",
                                printable(name), fmt::join(kNames, ", ")));
}

}  // namespace

std::string ControlRequest::line() const {
  nlohmann::ordered_json out = {{"command", kNames[static_cast<size_t>(command)]}};
  if (command == ControlCommand::kSet) out["settings"] = settings;
  return out.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

ControlRequest parse_request(std::string_view line) {
  const json parsed = json::parse(line, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("command") || !parsed["command"].is_string()) {
    throw ConfigError("control: expected a line such as {\"command\": \"stats\"}, found \"" +
                      printable(line) + "\"");
  }
  ControlRequest request;
  request.command = command_named(parsed["command"].get<std::string>());
  if (request.command != ControlCommand::kSet) return request;
  const json settings = parsed.value("settings", json());
  if (!settings.is_array() || settings.empty()) {
    throw ConfigError("control: set: expected \"settings\" with a list of key=value");
  }
  for (const json& setting : settings) {
    if (!setting.is_string()) {
      throw ConfigError(
          fmt::format("control: set: found {}, expected a text key=value",
                      printable(setting.dump(-1, ' ', true, json::error_handler_t::replace))));
    }
    request.settings.push_back(setting.get<std::string>());
  }
  return request;
}

std::string refusal_line(const std::string& error, bool is_usage) {
  const nlohmann::ordered_json out = {{"ok", false}, {"error", error}, {"is_usage", is_usage}};
  return out.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

bool LineBuffer::push(std::string_view bytes) {
  for (const char byte : bytes) {
    unfinished_ = byte == '\n' ? 0 : unfinished_ + 1;
    if (unfinished_ > kMost) return false;
    bytes_ += byte;
  }
  return true;
}

std::optional<std::string> LineBuffer::next() {
  const size_t end = bytes_.find('\n');
  if (end == std::string::npos) return {};
  std::string line = bytes_.substr(0, end);
  bytes_.erase(0, end + 1);
  return line;
}

}  // namespace hotset
