#include "tools/engine_client.h"

#include <fmt/format.h>

#include "tools/control_socket.h"

namespace hotset {

int engine_pid(const std::string& folder, const std::optional<int>& asked) {
  if (asked) return *asked;
  const std::vector<int> pids = engines_in(folder);
  if (pids.empty()) {
    throw Error(folder + ": no engine is listening; hotset run, bench and eval do while they run");
  }
  if (pids.size() > 1) {
    throw ConfigError(fmt::format("found {} running engines, expected --pid with one of {}",
                                  pids.size(), fmt::join(pids, ", ")));
  }
  return pids.front();
}

nlohmann::ordered_json ask(const std::string& folder, int pid, const ControlRequest& request,
                           int timeout_ms) {
  const std::string line = ask_engine(folder, pid, request, timeout_ms);
  nlohmann::ordered_json answer = nlohmann::ordered_json::parse(line, nullptr, false);
  if (!answer.is_object() || !answer.contains("ok")) {
    throw Error("the engine answered \"" + line.substr(0, 100) + "\", expected a line of JSON");
  }
  if (!answer["ok"].get<bool>()) {
    const std::string error = answer["error"];
    if (answer.value("is_usage", false)) throw ConfigError(error);
    throw Error(error);
  }
  return answer;
}

}  // namespace hotset
