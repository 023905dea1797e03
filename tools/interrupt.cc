#include "tools/interrupt.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace hotset {
namespace {

// A signal handler can reach nothing but globals; lock-free, so they may be written there.
std::atomic<bool> interrupt_seen{false};
std::atomic<int> end_seen{0};  // SIGTERM or SIGHUP
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

constexpr int kSignalExit = 128;  // as shells count

void on_interrupt(int) {
  if (interrupt_seen.exchange(true)) _exit(kSignalExit + SIGINT);
}

// A terminal that goes away sends more than one.
void on_end(int signal_number) {
  end_seen = signal_number;
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
}

void throw_if_interrupted() {
  if (interrupted()) throw Interrupted{};
}

void wait_for_terminal(int fd) {
  sigset_t ours, before;
  sigemptyset(&ours);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&ours, number);
  pthread_sigmask(SIG_BLOCK, &ours, &before);
  // Signals come in while it waits and nowhere else: none is missed between the look and the wait.
  pollfd ready = {fd, POLLIN, 0};
  if (!interrupted()) ppoll(&ready, 1, nullptr, &before);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

int end_exit_code() {
  return kSignalExit + (end_seen != 0 ? end_seen.load() : SIGINT);
}

}  // namespace hotset
