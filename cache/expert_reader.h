// Reads experts ahead of their packing, on a few threads that may block: what a step waits for
// first, then guesses. A guess stays in its landing until the step needs it: it takes no slot and
// is not packed, so one that was wrong has cost nothing but disk time. (Packing ahead would take
// the time of the threads that compute; a step packs an expert on all of them at once.)
//
// All memory is taken at construction. One step at a time asks; the mutex guards the reads, not the
// bytes that land: who finds a read landed under it sees all of them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

#include "cache/expert_source.h"
#include "cache/recorder.h"
#include "kernels/memory.h"

namespace hotset {

// What reading ahead was worth.
struct ReadAheadStats {
  int64_t guesses = 0;    // absent experts that were asked for ahead
  int64_t used = 0;       // of them, those that the next event of their layer needed
  int64_t needed = 0;     // reads that steps asked for, `used` included
  int64_t waited_ns = 0;  // time that steps have waited for reads
  int64_t hidden_ns = 0;  // reading time of what was used that had passed when the step asked
  int64_t bytes_unused = 0;
};

class ExpertReader {
 public:
  using ReadId = int32_t;

  // `reads`: how many may be queued, under way or landed at once; each has a landing.
  ExpertReader(ExpertSource& source, Recorder& recorder, int threads, int32_t reads);
  ~ExpertReader();  // ends within the reads under way

  // Asks for an expert that the running event waits for; a guess of it becomes that. `in_place`:
  // where it is to land instead of in the read's own landing (null: not). False if every read is
  // taken by the event already. A guess that has not been needed yet gives way.
  bool need(ExpertId id, std::byte* in_place);
  // Guesses that a coming event of this layer will need the expert. Without effect where it is
  // asked for already or no read is free.
  void expect(ExpertId id);
  // Gives up the guesses of a layer whose event has asked for what it needs. One that is being read
  // frees its landing when its reads end.
  void drop_expected(int32_t layer);

  struct Landed {
    ReadId read = -1;
    ExpertId id;
    const std::byte* bytes = nullptr;  // until release
    int64_t bytes_read = 0, read_ns = 0;
    bool was_guess = false;
  };
  // Waits until one of the needed reads has landed; returns all that have, at most out.size(), each
  // once. Rethrows a read's Error. Something must have been asked for.
  size_t take_landed(std::span<Landed> out);
  void release(ReadId read);  // its bytes have been packed
  // Gives up all that the event asked for; returns when nothing lands in place any more.
  void cancel_needed();

  // What will be read over and over should land on huge pages: a disk writes into them twice as
  // fast as into scattered small ones (measured through virtio: 1.5 against 0.8 GB/s).
  void touch_landings() const { landings_.touch(); }
  int64_t landing_bytes() const { return landings_.bytes(); }
  ReadAheadStats stats() const;
  void verify() const;

 private:
  using Clock = std::chrono::steady_clock;
  enum class State : uint8_t { kIdle, kQueued, kReading, kLanded, kTaken };
  struct Read {
    State state = State::kIdle;
    bool is_needed = false, is_dropped = false, was_guess = false, is_in_place = false;
    ExpertId id;
    int64_t order = 0;  // of asking
    std::byte* to = nullptr;
    int32_t parts_begun = 0, parts_under_way = 0;
    int64_t bytes = 0;
    std::exception_ptr error;
    Clock::time_point begun, ended, needed;
  };

  void work(const std::stop_token& stop);
  Read* next_to_read();
  Read* find(ExpertId id);
  Read* free_read();
  void start(Read& read, ExpertId id);
  void finish_part(Read& read, int64_t bytes, std::exception_ptr error);
  void drop(Read& read);
  std::byte* landing(const Read& read) const;

  ExpertSource& source_;
  Recorder& recorder_;
  const int32_t parts_, guesses_at_once_;
  const int64_t stride_;
  Memory landings_;
  mutable std::mutex mutex_;
  std::condition_variable_any queued_;
  std::condition_variable landed_;
  std::vector<Read> reads_;
  int64_t order_ = 0;
  ReadAheadStats stats_;
  std::vector<std::jthread> threads_;
};

}  // namespace hotset
