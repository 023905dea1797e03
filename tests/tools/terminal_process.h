// A hotset process on a pseudo terminal of its own, which a test types on and may kill.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

namespace hotset {

class TerminalProcess {
 public:
  TerminalProcess(std::vector<std::string> arguments, const std::string& home) {
    pid_ = forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (pid_ != 0) return;
    setenv("XDG_CACHE_HOME", home.c_str(), 1);
    setenv("XDG_RUNTIME_DIR", home.c_str(), 1);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  ~TerminalProcess() {
    hang_up();
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  pid_t pid() const { return pid_; }
  void type(const std::string& line) const {
    EXPECT_EQ(write(terminal_, line.data(), line.size()), static_cast<ssize_t>(line.size()));
  }
  // What the terminal shows until it shows `text`, or for a minute.
  std::string read_until(const std::string& text) const {
    std::string shown;
    pollfd ready = {terminal_, POLLIN, 0};
    while (shown.find(text) == std::string::npos && poll(&ready, 1, 60000) > 0) {
      char bytes[4096];
      const ssize_t got = read(terminal_, bytes, sizeof(bytes));
      if (got <= 0) break;
      shown.append(bytes, static_cast<size_t>(got));
    }
    EXPECT_NE(shown.find(text), std::string::npos) << shown;
    return shown;
  }
  void hang_up() {
    if (terminal_ >= 0) close(std::exchange(terminal_, -1));
  }
  int exit_code() {
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  int terminal_ = -1;
};

}  // namespace hotset
