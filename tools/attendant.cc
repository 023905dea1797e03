#include "tools/attendant.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>

#include "kernels/check.h"

namespace hotset {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTickMs = 1000;  // pressure is an average over ten seconds

double seconds(Clock::time_point time) {
  return std::chrono::duration<double>(time.time_since_epoch()).count();
}

// Signals are for the thread that looks at the flags, whose reading they must interrupt.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

Attendant::Attendant(const Engine& engine, LiveSettings& settings, ScoreKeeper* scores,
                     double save_every_s, const std::string& folder)
    : engine_(engine), settings_(settings), scores_(scores), save_every_s_(save_every_s) {
  try {
    socket_.emplace(folder);
  } catch (const Error& error) {
    fmt::print(stderr, "hotset: {}; hotset ctl cannot reach this run\n", error.what());
  }
  wake_ = eventfd(0, EFD_CLOEXEC);
  HOTSET_CHECK(wake_ >= 0, "a process has a few file descriptors left");
  const SignalsBlocked blocked;
  thread_ = std::jthread([this] { work(); });
}

Attendant::~Attendant() {
  const uint64_t one = 1;
  const ssize_t written = write(wake_, &one, sizeof(one));
  HOTSET_CHECK(written == sizeof(one), "an event that nobody resets takes one");
  thread_.join();
  close(wake_);
  if (scores_ != nullptr) scores_->save(engine_);
}

void Attendant::work() {
  try {
    attend();
  } catch (const std::exception& error) {  // out of memory, most likely: the steps go on
    fmt::print(stderr, "hotset: {}; hotset ctl cannot reach this run any more\n", error.what());
    socket_.reset();  // who asks is told so instead of waiting
  }
}

void Attendant::attend() {
  double saved_s = seconds(Clock::now());
  const auto answer = [this](const std::string& line) { return settings_.answer(line); };
  pollfd wake = {wake_, POLLIN, 0};
  while (poll(&wake, 1, 0) == 0) {
    if (socket_) {
      socket_->serve(wake_, kTickMs, answer);
    } else {
      poll(&wake, 1, kTickMs);
    }
    const double now_s = seconds(Clock::now());
    const std::string words = settings_.heed_pressure(now_s);
    if (!words.empty()) fmt::print(stderr, "hotset: {}\n", words);
    if (scores_ != nullptr && now_s - saved_s >= save_every_s_) {
      scores_->save(engine_);
      saved_s = now_s;
    }
  }
}

}  // namespace hotset
