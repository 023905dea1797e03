#include "runtime/card/miss_server.h"

#include <algorithm>
#include <atomic>

#include "kernels/check.h"

namespace hotset {

namespace {

constexpr int kPollsBeforeYield = 200;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

MissServer::MissServer(MissComputer& computer, const Mailboxes& mailboxes, int64_t k, int64_t width)
    : computer_(computer),
      mailboxes_(mailboxes),
      k_(k),
      width_(width),
      thread_([this](const std::stop_token& stop) { work(stop); }) {}

MissServer::~MissServer() {
  HOTSET_CHECK(has_ended_, "a card's misses lose their server in the middle of a step");
}

void MissServer::begin_step(int64_t rows, StepKind kind, int64_t now) {
  rows_ = rows;
  kind_ = kind;
  now_ = now;
  error_ = nullptr;
  has_ended_ = false;
  {
    const std::lock_guard lock(mutex_);
    is_stepping_ = true;
  }
  changed_.notify_one();
}

void MissServer::end_step() {
  {
    // Who holds the mutex is the thread, and it serves: it leaves when it sees has_ended_.
    has_ended_ = true;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !is_stepping_; });
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// Parked between steps; polls while one runs.
void MissServer::work(const std::stop_token& stop) {
  std::array<uint32_t, 2> seen = {0, 0};
  while (true) {
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait(lock, stop, [&] { return is_stepping_; })) return;
    }
    for (int idle = 0; !has_ended_;) {
      bool is_served = false;
      for (size_t i = 0; i < 2; ++i) is_served |= serve(mailboxes_[i], seen[i]);
      if (is_served) {
        idle = 0;
      } else if (++idle < kPollsBeforeYield) {
        pause();
      } else {
        std::this_thread::yield();
      }
    }
    {
      const std::lock_guard lock(mutex_);
      is_stepping_ = false;
    }
    changed_.notify_all();
  }
}

bool MissServer::serve(const CardMailbox& mailbox, uint32_t& seen) {
  const uint32_t posted =
      std::atomic_ref<uint32_t>(*mailbox.request_flag).load(std::memory_order_acquire);
  if (posted == seen) return false;
  seen = posted;
  answer(mailbox);
  std::atomic_ref<uint32_t>(*mailbox.reply_flag).store(posted, std::memory_order_release);
  return true;
}

void MissServer::answer(const CardMailbox& mailbox) {
  const Routing picks{mailbox.picks, nullptr, rows_, k_};
  if (!error_) {
    try {
      const Activations in{{mailbox.x, rows_, width_}, mailbox.q};
      computer_.compute(*mailbox.layer, picks, in, kind_, now_, mailbox.outputs);
      return;
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  for (int64_t p = 0; p < rows_ * k_; ++p) {
    if (picks.experts[p] < 0) continue;
    std::fill_n(mailbox.outputs + p * width_, width_, 0.0f);
  }
}

}  // namespace hotset
