// Asking a running engine over its control socket, as ctl, tune and the daemon do.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

#include "tools/control_protocol.h"

namespace hotset {

// An engine that listens: its process, and the folder of its socket and ring.
struct EngineAddress {
  std::string folder;
  int pid = 0;
};
// The process `asked` for, or the only engine in the folders that listens. Throws Error where there
// is none, ConfigError where there are several.
EngineAddress find_engine(std::span<const std::string> folders, const std::optional<int>& asked);

// The answer's object. Throws what the engine answers if it refuses (ConfigError or Error), and
// Error for what is no answer, or does not come within `timeout_ms` (0: however long it takes).
nlohmann::ordered_json ask(const EngineAddress& engine, const ControlRequest& request,
                           int timeout_ms = 0);

}  // namespace hotset
