#include "tools/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace hotset {
namespace {

// A signal handler can reach nothing but a global; lock-free, so it may be written there.
std::atomic<bool> interrupt_seen{false};
static_assert(std::atomic<bool>::is_always_lock_free);

constexpr int kInterruptedExit = 130;

void on_interrupt(int) {
  if (interrupt_seen.exchange(true)) _exit(kInterruptedExit);
}

}  // namespace

void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // without SA_RESTART: a read from the terminal must end
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() {
  return interrupt_seen.load(std::memory_order_relaxed);
}

void clear_interrupt() {
  interrupt_seen = false;
}

void throw_if_interrupted() {
  if (interrupted()) throw Interrupted{};
}

}  // namespace hotset
