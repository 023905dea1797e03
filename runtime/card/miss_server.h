// The host's half of a card's mailboxes (kernels/cuda/card_kernels.h): a thread that polls for
// requests while a step runs, computes the misses with the CPU's own code, and answers.
//
// Ordering, per mailbox. The card writes the request, then its flag (release); the thread reads the
// flag (acquire), then the request: it sees all of it. It writes the outputs (the pool's threads
// have ended before their caller goes on), then the reply's flag (release); the card reads that
// flag (acquire), then the outputs. After the reply the thread touches neither until it acquires
// the next request, which the card posts after it has read the reply. Flags only grow.
//
// Rules against deadlock: the thread never calls the card's runtime and never takes a lock that a
// thread which launches or copies holds. An Error of the cache is kept for the step; its misses,
// and all later ones of the step, are answered with zeros, so that nothing on the card waits for
// ever.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>

#include "kernels/cuda/card_kernels.h"
#include "runtime/device.h"

namespace hotset {

// Who computes a layer's misses: `picks` are -1 where the card has the expert, `outputs`
// [rows * k][width] take a row for each of the others.
class MissComputer {
 public:
  virtual ~MissComputer() = default;
  virtual void compute(int32_t layer, const Routing& picks, const Activations& in, StepKind kind,
                       int64_t now, float* outputs) = 0;
};

class MissServer {
 public:
  using Mailboxes = std::array<CardMailbox, 2>;  // by the layer's parity; flags are 0
  MissServer(MissComputer& computer, const Mailboxes& mailboxes, int64_t k, int64_t width);
  ~MissServer();

  // The next requests are of this step: before anything of it is launched.
  void begin_step(int64_t rows, StepKind kind, int64_t now);
  // Everything of the step has ended on the card; rethrows what went wrong in it.
  void end_step();

 private:
  void work(const std::stop_token& stop);
  bool serve(const CardMailbox& mailbox, uint32_t& seen);
  void answer(const CardMailbox& mailbox);

  MissComputer& computer_;
  const Mailboxes mailboxes_;
  const int64_t k_, width_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool is_stepping_ = false;  // under the mutex
  std::atomic<bool> has_ended_ = true;
  // Of the running step: written while the thread is parked, or before it can acquire a request.
  int64_t rows_ = 0, now_ = 0;
  StepKind kind_ = StepKind::kDecode;
  std::exception_ptr error_;
  std::jthread thread_;  // last: ends before what it uses
};

}  // namespace hotset
