// What the host asks of a card: memory, streams, events, copies and graphs. Two implementations
// ship: CUDA's runtime, and one on the host whose kernels the executor runs (fake_runtime.h). No
// CUDA header is needed to use either. Pointers to the card's memory mean nothing to the host but
// as addresses; pinned memory is written and read by both.
//
// All calls throw CardError on failure. Different threads may use different streams; a stream is
// used by one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "kernels/check.h"
#include "kernels/cuda/card_stream.h"

namespace hotset {

// What a card or its driver refuses, or that it has failed. Lost: nothing works on it any more in
// this process.
class CardError : public Error {
 public:
  explicit CardError(const std::string& what, bool is_lost = false)
      : Error(what), is_lost_(is_lost) {}
  bool is_lost() const { return is_lost_; }

 private:
  bool is_lost_;
};

// Handles; whoever made one through a CardRuntime gives it back there.
struct CardEvent {
  void* handle = nullptr;
};
struct CardGraph {
  void* handle = nullptr;
};

enum class StreamPriority { kNormal, kLow };

struct CardMemoryInfo {
  int64_t free_bytes = 0, total_bytes = 0;
};

class CardRuntime {
 public:
  virtual ~CardRuntime() = default;
  virtual std::string name() const = 0;  // for people
  virtual bool is_emulated() const = 0;
  virtual CardMemoryInfo memory_info() = 0;

  // `what` names the use in the Error if there is not enough. Aligned to 256 bytes; contents are
  // anything. Pinned memory is mapped: kernels use the same address.
  virtual std::byte* allocate(int64_t bytes, const char* what) = 0;
  virtual void release(std::byte* memory) noexcept = 0;
  virtual std::byte* allocate_pinned(int64_t bytes, const char* what) = 0;
  virtual void release_pinned(std::byte* memory) noexcept = 0;

  // Addresses only, in which commit() makes memory of the first so many bytes: what was memory of
  // them keeps its contents, what is beyond goes back to the card, in pages of its own size.
  // Nothing that is under way on the card uses what comes or goes.
  virtual std::byte* reserve(int64_t bytes, const char* what) = 0;
  virtual void commit(std::byte* reservation, int64_t bytes, const char* what) = 0;
  virtual void release_reservation(std::byte* reservation) noexcept = 0;

  virtual CardStream open_stream(StreamPriority priority) = 0;
  virtual void close_stream(CardStream stream) noexcept = 0;  // waits for what is on it
  virtual CardEvent open_event() = 0;
  virtual void close_event(CardEvent event) noexcept = 0;

  // Operations of a stream, in its order. `from` of a copy is read at any time until the copy has
  // completed if it is pinned, else before the call returns. A copy to memory of the host that is
  // not pinned has completed when the call returns.
  virtual void copy(CardStream stream, void* to, const void* from, int64_t bytes) = 0;
  virtual void fill(CardStream stream, void* to, uint8_t byte, int64_t bytes) = 0;
  // The event is everything that is on the stream now; recording again replaces that.
  virtual void record(CardEvent event, CardStream stream) = 0;
  // What follows on the stream waits for what the event is now. Nothing if it was never recorded.
  virtual void wait(CardStream stream, CardEvent event) = 0;

  // The host's side. An event that was never recorded has completed.
  virtual bool has_completed(CardEvent event) = 0;  // never blocks
  virtual void synchronise(CardEvent event) = 0;
  virtual void synchronise(CardStream stream) = 0;

  // Between the two what is put on the stream is not done but kept, with its arguments; waiting for
  // the stream is an Error then. A launch is one operation.
  virtual void begin_capture(CardStream stream) = 0;
  virtual CardGraph end_capture(CardStream stream) = 0;
  virtual void launch(CardGraph graph, CardStream stream) = 0;
  virtual void close_graph(CardGraph graph) noexcept = 0;

  // What Nsight is to look at (docs/nsight.md), from on to off.
  virtual void set_profiling(bool on) = 0;
};

// A stream that is closed after everything that was on it.
struct OwnStream {
  CardRuntime& card;
  const CardStream stream;
  explicit OwnStream(CardRuntime& runtime)
      : card(runtime), stream(runtime.open_stream(StreamPriority::kNormal)) {}
  ~OwnStream() { card.close_stream(stream); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
};

struct OwnEvent {
  CardRuntime& card;
  const CardEvent event;
  explicit OwnEvent(CardRuntime& runtime) : card(runtime), event(runtime.open_event()) {}
  ~OwnEvent() { card.close_event(event); }
  OwnEvent(const OwnEvent&) = delete;
  OwnEvent& operator=(const OwnEvent&) = delete;
};

// Memory of a card, or pinned memory of the host for it. RAII owner; move-only.
class CardMemory {
 public:
  enum class Place { kCard, kPinned };

  CardMemory() = default;
  CardMemory(CardRuntime& card, Place place, int64_t bytes, const char* what)
      : card_(&card),
        place_(place),
        bytes_(bytes),
        data_(place == Place::kCard ? card.allocate(bytes, what)
                                    : card.allocate_pinned(bytes, what)) {}
  ~CardMemory() {
    if (data_ == nullptr) return;
    place_ == Place::kCard ? card_->release(data_) : card_->release_pinned(data_);
  }
  CardMemory(CardMemory&& other) noexcept { *this = std::move(other); }
  CardMemory& operator=(CardMemory&& other) noexcept {
    std::swap(card_, other.card_);
    std::swap(place_, other.place_);
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
    return *this;
  }

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  CardRuntime* card_ = nullptr;
  Place place_ = Place::kCard;
  int64_t bytes_ = 0;
  std::byte* data_ = nullptr;
};

// Addresses on a card of which a beginning is memory (CardRuntime::reserve): what grows and shrinks
// without moving. RAII owner; move-only.
class CardReservation {
 public:
  CardReservation() = default;
  CardReservation(CardRuntime& card, int64_t bytes, const char* what)
      : card_(&card), what_(what), data_(card.reserve(bytes, what)) {}
  ~CardReservation() {
    if (data_ != nullptr) card_->release_reservation(data_);
  }
  CardReservation(CardReservation&& other) noexcept { *this = std::move(other); }
  CardReservation& operator=(CardReservation&& other) noexcept {
    std::swap(card_, other.card_);
    std::swap(what_, other.what_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  // Throws Error if the card has no room; then all is as before.
  void commit(int64_t bytes) {
    if (bytes == bytes_) return;
    card_->commit(data_, bytes, what_);
    bytes_ = bytes;
  }
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }  // that are memory

 private:
  CardRuntime* card_ = nullptr;
  const char* what_ = "";
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace hotset
