// What `tune.auto` makes the daemon do: feeds an AutoTuner for each engine with what the engine's
// ring says, and performs its acts over the control socket. One engine has a trial at a time: two
// would be measured by each other's. Every act is a line on stderr and one in the log. Thread-
// compatible.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "profiler/auto_tuner.h"
#include "profiler/daemon.h"
#include "profiler/live_routing.h"
#include "tools/engine_client.h"

namespace hotset {

class AutoTuning {
 public:
  // After the daemon's tick, with the engines that it watches. `log` may be null.
  void tick(std::span<const std::unique_ptr<WatchedEngine>> engines, const Now& now, JsonLog* log);
  // Takes back what is being tried: nobody will be there to judge it.
  void finish(const Now& now, JsonLog* log);

 private:
  struct Tuned {
    EngineAddress engine;
    std::string model;
    LiveRouting routing;
    std::optional<AutoTuner> tuner;  // nothing: the engine has not been asked yet
    uint64_t ask_at_ns = 0;          // not before, after it did not answer
    bool is_on_card = false;         // has been told of: its routing is not known
  };
  void attend(Tuned& tuned, const Now& now, JsonLog* log);
  void look(Tuned& tuned, const Now& now, JsonLog* log);
  bool is_trying() const;
  void perform(Tuned& tuned, const TuneAct& act, const Now& now, JsonLog* log);

  std::map<std::string, Tuned> engines_;  // by the ring's path
};

}  // namespace hotset
