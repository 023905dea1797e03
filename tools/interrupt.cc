#include "tools/interrupt.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

namespace hotset {
namespace {

// A signal handler can reach nothing but globals; lock-free, so they may be written there.
std::atomic<bool> interrupt_seen{false};
std::atomic<int> end_seen{0};  // SIGTERM or SIGHUP
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

constexpr int kSignalExit = 128;  // as shells count

// Readable once a signal has come. A signal is handled by any thread, so that the one that waits
// for the terminal need not be disturbed by it: it waits for this, too.
std::atomic<int> wake_fd{-1};

void wake() {
  const int kept = errno;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_fd, &one, sizeof(one));
  errno = kept;
}

void drain() {
  uint64_t count;
  [[maybe_unused]] const ssize_t got = read(wake_fd, &count, sizeof(count));
}

void on_interrupt(int) {
  if (interrupt_seen.exchange(true)) _exit(kSignalExit + SIGINT);
  wake();
}

// A terminal that goes away sends more than one.
void on_end(int signal_number) {
  end_seen = signal_number;
  wake();
}

void handle(int signal_number, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // without SA_RESTART: a read from the terminal must end
  sigaction(signal_number, &action, nullptr);
}

}  // namespace

void catch_interrupts() {
  wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  handle(SIGINT, on_interrupt);
  handle(SIGTERM, on_end);
  struct sigaction before = {};
  sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) handle(SIGHUP, on_end);
}

bool interrupted() {
  return interrupt_seen.load(std::memory_order_relaxed) ||
         end_seen.load(std::memory_order_relaxed) != 0;
}

void clear_interrupt() {
  interrupt_seen = false;
  drain();
}

void throw_if_interrupted() {
  if (interrupted()) throw Interrupted{};
}

void wait_for_terminal(int fd) {
  pollfd ready[] = {{fd, POLLIN, 0}, {wake_fd, POLLIN, 0}};
  while (!interrupted() && ready[0].revents == 0) {
    poll(ready, 2, -1);
    if (ready[1].revents != 0) drain();
  }
}

int end_exit_code() {
  return kSignalExit + (end_seen != 0 ? end_seen.load() : SIGINT);
}

}  // namespace hotset
