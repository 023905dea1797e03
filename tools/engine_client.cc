#include "tools/engine_client.h"

#include <fmt/format.h>

#include "tools/control_socket.h"

namespace hotset {

EngineAddress find_engine(std::span<const std::string> folders, const std::optional<int>& asked) {
  const std::string where = fmt::format("{}", fmt::join(folders, ", "));
  std::vector<EngineAddress> found;
  std::vector<int> pids;
  for (const std::string& folder : folders) {
    for (const int pid : engines_in(folder)) {
      if (pid == asked) return {folder, pid};
      found.push_back({folder, pid});
      pids.push_back(pid);
    }
  }
  if (asked) throw Error(fmt::format("{}: process {} is no engine that listens", where, *asked));
  if (found.empty()) {
    throw Error(where + ": no engine is listening; hotset run, bench and eval do while they run");
  }
  if (found.size() > 1) {
    throw ConfigError(fmt::format("found {} running engines, expected --pid with one of {}",
                                  found.size(), fmt::join(pids, ", ")));
  }
  return found.front();
}

nlohmann::ordered_json ask(const EngineAddress& engine, const ControlRequest& request,
                           int timeout_ms) {
  const std::string line = ask_engine(engine.folder, engine.pid, request, timeout_ms);
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
