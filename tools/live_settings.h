// The settings of a running engine, and how they are changed: what control requests come to. Used
// by one thread, beside the one that steps.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "tools/config.h"
#include "tools/pressure_governor.h"

namespace hotset {

class LiveSettings {
 public:
  // `reread` makes the configuration again as the command line does: its file, --set, flags.
  LiveSettings(Engine& engine, Config config, std::function<Config()> reread);

  // The answer to a line of a control socket, as a line.
  std::string answer(const std::string& line);
  // Shrinks the experts' memory while the machine is short of it, if memory.pressure says so.
  // Returns words for people where it did something, else "".
  std::string heed_pressure(double now_s);

 private:
  nlohmann::ordered_json stats() const;
  nlohmann::ordered_json set(const std::vector<std::string>& assignments);
  nlohmann::ordered_json reload();
  void change_to(const Config& wanted);

  Engine& engine_;
  Config config_;
  const std::function<Config()> reread_;
  int64_t expert_bytes_;  // budget, whatever pressure has made of it
  PressureGovernor governor_;
};

}  // namespace hotset
