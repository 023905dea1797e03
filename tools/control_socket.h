// The two ends of an engine's control socket: a Unix socket PID.sock, for its user only, in the
// folder of its ring (runtime_folder).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tools/control_protocol.h"

namespace hotset {

// The engine's end. One thread serves; a client that does not read, or sends no line, keeps nobody
// waiting.
class ControlSocket {
 public:
  using Handler = std::function<std::string(const std::string& line)>;  // line without newline

  // Makes the folder where it is missing and removes what dead processes left in it. Throws Error.
  explicit ControlSocket(const std::string& folder);
  ~ControlSocket();  // removes it
  ControlSocket(const ControlSocket&) = delete;

  const std::string& path() const { return path_; }
  // Answers what comes next, if something does within `timeout_ms` and before `wake_fd` can be
  // read.
  void serve(int wake_fd, int timeout_ms, const Handler& handler);

 private:
  struct Client {
    int fd;
    LineBuffer lines;
  };
  void accept_client();
  bool answer(Client& client, const Handler& handler);  // false: done with it

  std::string path_;
  int listening_ = -1;
  std::vector<Client> clients_;  // the oldest first
};

std::string socket_path(const std::string& folder, int pid);
// The processes in `folder` that listen; none where it is not private. Removes the sockets of those
// that have died.
std::vector<int> engines_in(const std::string& folder);

// The client's end: sends one request, returns the answer's line. Throws Error where there is none,
// or none within `timeout_ms` (0: however long it takes).
std::string ask_engine(const std::string& folder, int pid, const ControlRequest& request,
                       int timeout_ms = 0);

}  // namespace hotset
