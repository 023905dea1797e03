// `hotset top`: what `hotset daemon` finds, in a terminal. Reads the rings itself.
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "profiler/frame.h"
#include "tools/cache_folder.h"
#include "tools/commands.h"
#include "tools/interrupt.h"
#include "tools/now.h"

namespace hotset {
namespace {

constexpr double kSlowFactor = 2;
constexpr int kPlainWidth = 100, kPeriodMs = 1000;

winsize terminal_size() {
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) size = {24, 80, 0, 0};
  return size;
}

// The terminal's second screen, given back at the end. A resize is heard of so that it ends a wait,
// which a signal that is ignored does not.
struct Screen {
  Screen() {
    struct sigaction resized = {};
    resized.sa_handler = [](int) {};
    sigaction(SIGWINCH, &resized, nullptr);
    fmt::print("\x1b[?1049h\x1b[?25l");
  }
  ~Screen() {
    fmt::print("\x1b[?25h\x1b[?1049l");
    std::fflush(stdout);
  }
};

struct TopFlags {
  bool once = false, json = false;
};

void run_top(const TopFlags& flags) {
  Daemon daemon(runtime_folders(), kSlowFactor);
  if (flags.once || flags.json || isatty(STDOUT_FILENO) == 0) {
    daemon.tick(now(), nullptr);
    fmt::print("{}", flags.json ? daemon.state() + "\n" : frame_of(daemon, now(), kPlainWidth, 0));
    return;
  }
  const Screen screen;
  while (!interrupted()) {
    daemon.tick(now(), nullptr);
    const winsize size = terminal_size();  // asked for each time: windows change
    std::string text = "\x1b[H";
    for (const char c : frame_of(daemon, now(), size.ws_col, size.ws_row - 1)) {
      text += c == '\n' ? "\x1b[K\n" : std::string(1, c);
    }
    fmt::print("{}\x1b[J", text);
    std::fflush(stdout);
    // A resize or Ctrl-C ends the wait early.
    poll(nullptr, 0, kPeriodMs);
  }
}

}  // namespace

void add_top_command(CLI::App& app) {
  const auto o = std::make_shared<TopFlags>();
  CLI::App* command = app.add_subcommand("top", "Watch running engines in the terminal");
  command->add_flag("-1,--once", o->once, "print one picture and end");
  command->add_flag("--json", o->json, "one JSON object on stdout, as the daemon's state.json");
  command->footer("Example:\n  hotset top");
  command->callback([o] { run_top(*o); });
}

}  // namespace hotset
