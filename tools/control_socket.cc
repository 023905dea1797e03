#include "tools/control_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <utility>

#include "cache/ring.h"
#include "kernels/check.h"

namespace hotset {
namespace {

constexpr size_t kClientsMost = 8;

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw Error(path + ": " + what + ": " + std::strerror(errno));
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    throw Error(fmt::format("{}: is too long for a socket, expected at most {} bytes", path,
                            sizeof(address.sun_path) - 1));
  }
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  return address;
}

int new_socket(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail(path, "no socket");
  return fd;
}

bool connects(int fd, const std::string& path) {
  const sockaddr_un address = address_of(path);
  int result;
  do {
    result = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

// The mode of the folder and of the socket keep others out already; this holds where a file system
// ignores modes.
bool is_friend(int fd) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == geteuid() || peer.uid == 0;
}

}  // namespace

std::string socket_path(const std::string& folder, int pid) {
  return fmt::format("{}/{}.sock", folder, pid);
}

ControlSocket::ControlSocket(const std::string& folder) : path_(socket_path(folder, getpid())) {
  make_private_folder(folder);
  engines_in(folder);
  FileDescriptor socket(new_socket(path_));
  // Under its name only when it is listened on: engines_in takes it for a dead one's otherwise.
  const std::string unborn = path_ + ".new";
  const sockaddr_un address = address_of(unborn);
  unlink(unborn.c_str());
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    fail(path_, "cannot be created");
  }
  if (chmod(unborn.c_str(), 0600) != 0 || fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0 ||
      listen(socket.get(), kClientsMost) != 0 || rename(unborn.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    unlink(unborn.c_str());
    errno = error;
    fail(path_, "cannot be listened on");
  }
  listening_ = socket.release();
}

ControlSocket::~ControlSocket() {
  unlink(path_.c_str());
  for (const Client& client : clients_) close(client.fd);
  close(listening_);
}

void ControlSocket::serve(int wake_fd, int timeout_ms, const Handler& handler) {
  std::vector<pollfd> ready = {{wake_fd, POLLIN, 0}, {listening_, POLLIN, 0}};
  for (const Client& client : clients_) ready.push_back({client.fd, POLLIN, 0});
  if (poll(ready.data(), ready.size(), timeout_ms) <= 0 || ready[0].revents != 0) return;
  for (size_t i = ready.size(); i-- > 2;) {
    if (ready[i].revents == 0 || answer(clients_[i - 2], handler)) continue;
    close(clients_[i - 2].fd);
    clients_.erase(clients_.begin() + static_cast<ptrdiff_t>(i) - 2);
  }
  if (ready[1].revents != 0) accept_client();
}

void ControlSocket::accept_client() {
  FileDescriptor client(accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (client.get() < 0 || !is_friend(client.get())) return;
  // Who connects and says nothing makes room for the next.
  if (clients_.size() == kClientsMost) {
    close(clients_.front().fd);
    clients_.erase(clients_.begin());
  }
  clients_.push_back({client.release(), {}});
}

bool ControlSocket::answer(Client& client, const Handler& handler) {
  char bytes[4096];
  const ssize_t got = recv(client.fd, bytes, sizeof(bytes), 0);
  if (got < 0) return errno == EINTR || errno == EAGAIN;
  if (got == 0) return false;
  const bool fits = client.lines.push({bytes, static_cast<size_t>(got)});
  const auto send_line = [&](const std::string& line) {
    // Into the socket's buffer, which is larger: who does not read is left.
    const ssize_t sent = send(client.fd, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent == static_cast<ssize_t>(line.size());
  };
  while (const auto line = client.lines.next()) {
    if (!send_line(handler(*line))) return false;
  }
  if (!fits) {
    send_line(refusal_line(
        fmt::format("control: expected lines of at most {} bytes", LineBuffer::kMost), true));
  }
  return fits;
}

std::vector<int> engines_in(const std::string& folder) {
  std::vector<int> pids;
  if (!is_private_folder(folder)) return pids;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".sock") continue;
    const std::string stem = entry.path().stem();
    int pid = 0;
    const auto [end, bad] = std::from_chars(stem.data(), stem.data() + stem.size(), pid);
    if (bad != std::errc() || end != stem.data() + stem.size() || pid <= 0) continue;
    const std::string path = socket_path(folder, pid);
    const FileDescriptor socket(new_socket(path));
    if (connects(socket.get(), path)) {
      pids.push_back(pid);
    } else if (errno == ECONNREFUSED) {
      unlink(path.c_str());
    }
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

std::string ask_engine(const std::string& folder, int pid, const ControlRequest& request,
                       int timeout_ms) {
  const std::string path = socket_path(folder, pid);
  const FileDescriptor socket(new_socket(path));
  const timeval timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
  for (const int which : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    setsockopt(socket.get(), SOL_SOCKET, which, &timeout, sizeof(timeout));
  }
  if (!connects(socket.get(), path)) fail(path, "no engine answers here");
  const std::string line = request.line();
  if (send(socket.get(), line.data(), line.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(line.size())) {
    fail(path, "cannot be written");
  }
  std::string answer;
  char bytes[4096];
  while (answer.empty() || answer.back() != '\n') {
    const ssize_t got = recv(socket.get(), bytes, sizeof(bytes), 0);
    if (got < 0) fail(path, "no answer");
    if (got == 0) throw Error(path + ": the engine ended before it had answered");
    answer.append(bytes, static_cast<size_t>(got));
  }
  return answer;
}

}  // namespace hotset
