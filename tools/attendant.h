// The thread that attends to an engine while it runs: answers on its control socket, saves scores
// now and then, heeds pressure. Steps never wait for it but where a request resizes their tier.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "tools/control_socket.h"
#include "tools/live_settings.h"
#include "tools/score_keeper.h"

namespace hotset {

class Attendant {
 public:
  // Without a socket (no folder, or it cannot be made, which is said on stderr) it only saves and
  // heeds. `scores`: nothing to save. All outlive it.
  Attendant(const Engine& engine, LiveSettings& settings, ScoreKeeper* scores, double save_every_s,
            const std::string& folder);
  ~Attendant();  // saves for the last time

 private:
  void work();
  void attend();

  const Engine& engine_;
  LiveSettings& settings_;
  ScoreKeeper* const scores_;
  const double save_every_s_;
  std::optional<ControlSocket> socket_;
  int wake_ = -1;  // an event that ends the thread
  std::jthread thread_;
};

}  // namespace hotset
