// Asking a running engine over its control socket, as ctl, tune and the daemon do.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "tools/control_protocol.h"

namespace hotset {

// `asked`, or the only engine in the folder that listens. Throws Error where there is none,
// ConfigError where there are several.
int engine_pid(const std::string& folder, const std::optional<int>& asked);

// The answer's object. Throws what the engine answers if it refuses (ConfigError or Error), and
// Error for what is no answer, or does not come within `timeout_ms` (0: however long it takes).
nlohmann::ordered_json ask(const std::string& folder, int pid, const ControlRequest& request,
                           int timeout_ms = 0);

}  // namespace hotset
