#include "kernels/cuda/fake_runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <vector>

#include "kernels/check.h"
#include "kernels/memory.h"

namespace hotset {

namespace {

class FakeRuntime;
struct FakeStream;

// What an event stands for: the first `ticket` operations of a stream.
struct FakeEvent {
  FakeStream* stream = nullptr;  // null: never recorded
  uint64_t ticket = 0;
};

// An operation: work, or waiting for an event as it was when the wait was put on the stream.
struct Operation {
  std::function<void()> work;
  FakeEvent after;
};

struct FakeStream {
  FakeRuntime* card = nullptr;
  std::deque<Operation> queue;
  uint64_t put = 0, done = 0;  // operations
  bool is_capturing = false;
  std::vector<std::function<void()>> captured;
};

struct FakeGraph {  // a launch that has not run yet outlives it
  std::shared_ptr<const std::vector<std::function<void()>>> work;
};

constexpr size_t kAlignment = 256;

class FakeRuntime : public CardRuntime {
 public:
  explicit FakeRuntime(const FakeOptions& options) : options_(options), random_(options.seed) {}
  ~FakeRuntime() override {
    HOTSET_CHECK(memory_.empty() && pinned_.empty() && reservations_.empty(),
                 "a card ends before its memory is released");
  }

  std::string name() const override { return "emulated card"; }
  bool is_emulated() const override { return true; }
  CardMemoryInfo memory_info() override {
    const std::lock_guard lock(mutex_);
    return {options_.memory_bytes - used_bytes_, options_.memory_bytes};
  }

  std::byte* allocate(int64_t bytes, const char* what) override;
  void release(std::byte* memory) noexcept override { release_from(memory_, memory); }
  std::byte* allocate_pinned(int64_t bytes, const char* what) override {
    return allocate_in(pinned_, bytes, what);
  }
  void release_pinned(std::byte* memory) noexcept override { release_from(pinned_, memory); }
  std::byte* reserve(int64_t bytes, const char* what) override;
  void commit(std::byte* reservation, int64_t bytes, const char* what) override;
  void release_reservation(std::byte* reservation) noexcept override;

  CardStream open_stream(StreamPriority) override {
    const std::lock_guard lock(mutex_);
    streams_.emplace_back().card = this;
    return {&streams_.back()};
  }
  void close_stream(CardStream stream) noexcept override;
  CardEvent open_event() override { return {new FakeEvent}; }
  void close_event(CardEvent event) noexcept override { delete of(event); }

  void copy(CardStream stream, void* to, const void* from, int64_t bytes) override;
  void fill(CardStream stream, void* to, uint8_t byte, int64_t bytes) override {
    if (bytes == 0) return;  // `to` may be null then
    put(of(stream), [=, this] {
      check_present(to, bytes);
      std::memset(to, byte, static_cast<size_t>(bytes));
    });
  }
  void record(CardEvent event, CardStream stream) override;
  void wait(CardStream stream, CardEvent event) override;

  bool has_completed(CardEvent event) override;
  void synchronise(CardEvent event) override;
  void synchronise(CardStream stream) override;

  void begin_capture(CardStream stream) override;
  CardGraph end_capture(CardStream stream) override;
  void launch(CardGraph graph, CardStream stream) override;
  void close_graph(CardGraph graph) noexcept override { delete of(graph); }
  void set_profiling(bool) override {}  // nothing of it can be looked at

  void put(FakeStream* stream, std::function<void()> work) {
    if (stream->is_capturing) {
      stream->captured.push_back(std::move(work));
    } else {
      put(stream, {std::move(work), {}});
    }
  }

 private:
  using Allocations = std::map<std::byte*, int64_t>;
  struct Reservation {
    Memory memory;
    int64_t bytes = 0, committed = 0;
  };
  static FakeStream* of(CardStream s) { return static_cast<FakeStream*>(s.handle); }
  static FakeEvent* of(CardEvent e) { return static_cast<FakeEvent*>(e.handle); }
  static FakeGraph* of(CardGraph g) { return static_cast<FakeGraph*>(g.handle); }

  std::byte* allocate_in(Allocations& allocations, int64_t bytes, const char* what);
  void release_from(Allocations& allocations, std::byte* memory);
  void take_room(int64_t bytes, const char* what);  // under the mutex
  static bool holds(const Allocations& allocations, const void* address);
  bool is_reserved(const void* address) const {
    return std::any_of(reservations_.begin(), reservations_.end(), [&](const auto& r) {
      return address >= r.first && address < r.first + r.second.bytes;
    });
  }
  // What a card would not survive: an operation whose memory has gone before its turn came.
  void check_present(const void* address, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    bool is_there = holds(memory_, address) || holds(pinned_, address);
    for (const auto& [begin, r] : reservations_) {
      if (address < begin || address >= begin + r.bytes) continue;
      is_there = static_cast<const std::byte*>(address) + bytes <= begin + r.committed;
    }
    HOTSET_CHECK(is_there, "a card's memory is used that has been given back");
  }
  // Whether the address is the host's ordinary memory.
  bool is_pageable(const void* address) {
    const std::lock_guard lock(mutex_);
    return !holds(memory_, address) && !holds(pinned_, address) && !is_reserved(address);
  }
  void put(FakeStream* stream, Operation operation);
  void force(FakeStream* stream, uint64_t ticket);
  void run_until(std::unique_lock<std::mutex>& lock, FakeStream* stream, uint64_t ticket);
  static void refuse_in_capture(FakeStream* stream, const char* what) {
    if (stream->is_capturing) {
      throw CardError(fmt::format("the card: {} while a graph is captured from the stream", what));
    }
  }

  const FakeOptions options_;
  std::mutex mutex_;
  std::condition_variable idle_;
  bool is_running_ = false;  // somebody runs operations: one thread at a time
  std::minstd_rand random_;
  Allocations memory_, pinned_;
  std::map<std::byte*, Reservation> reservations_;
  int64_t used_bytes_ = 0;
  std::deque<FakeStream> streams_;
};

std::byte* FakeRuntime::allocate(int64_t bytes, const char* what) {
  {
    const std::lock_guard lock(mutex_);
    take_room(bytes, what);
  }
  return allocate_in(memory_, bytes, what);
}

void FakeRuntime::take_room(int64_t bytes, const char* what) {
  if (bytes > options_.memory_bytes - used_bytes_) {
    throw CardError(fmt::format("the card has no room for {} ({} bytes, {} are free)", what, bytes,
                                options_.memory_bytes - used_bytes_));
  }
  used_bytes_ += bytes;
}

std::byte* FakeRuntime::reserve(int64_t bytes, const char* what) {
  Reservation made{Memory::reserve(std::max<int64_t>(bytes, 1), what), bytes, 0};
  std::byte* const address = made.memory.data();
  const std::lock_guard lock(mutex_);
  reservations_.emplace(address, std::move(made));
  return address;
}

// What comes, and what goes, is 0xFF: also where the system's pages are larger than what went.
void FakeRuntime::commit(std::byte* reservation, int64_t bytes, const char* what) {
  const std::lock_guard lock(mutex_);
  Reservation& r = reservations_.at(reservation);
  HOTSET_CHECK(bytes <= r.bytes, "more memory than addresses were reserved for");
  take_room(bytes - r.committed, what);
  const int64_t before = std::exchange(r.committed, bytes);
  if (bytes < before) std::memset(reservation + bytes, 0xFF, static_cast<size_t>(before - bytes));
  r.memory.commit(bytes, what);
  if (bytes > before) std::memset(reservation + before, 0xFF, static_cast<size_t>(bytes - before));
}

void FakeRuntime::release_reservation(std::byte* reservation) noexcept {
  const std::lock_guard lock(mutex_);
  const auto at = reservations_.find(reservation);
  HOTSET_CHECK(at != reservations_.end(), "a card's addresses are released that are not reserved");
  used_bytes_ -= at->second.committed;
  reservations_.erase(at);
}

std::byte* FakeRuntime::allocate_in(Allocations& allocations, int64_t bytes, const char* what) {
  const size_t rounded = (static_cast<size_t>(bytes) / kAlignment + 1) * kAlignment;
  auto* const memory = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded));
  if (memory == nullptr) throw CardError(fmt::format("no memory for {} ({} bytes)", what, bytes));
  std::memset(memory, 0xFF, rounded);
  const std::lock_guard lock(mutex_);
  allocations[memory] = bytes;
  return memory;
}

void FakeRuntime::release_from(Allocations& allocations, std::byte* memory) {
  {
    const std::lock_guard lock(mutex_);
    const auto at = allocations.find(memory);
    HOTSET_CHECK(at != allocations.end(), "a card's memory is released that is not allocated");
    if (&allocations == &memory_) used_bytes_ -= at->second;
    allocations.erase(at);
  }
  std::free(memory);
}

bool FakeRuntime::holds(const Allocations& allocations, const void* address) {
  auto* const at = const_cast<std::byte*>(static_cast<const std::byte*>(address));
  auto next = allocations.upper_bound(at);
  if (next == allocations.begin()) return false;
  --next;
  return at < next->first + next->second;
}

void FakeRuntime::close_stream(CardStream stream) noexcept {
  force(of(stream), of(stream)->put);  // it stays: events may name it
}

void FakeRuntime::copy(CardStream stream, void* to, const void* from, int64_t bytes) {
  FakeStream* const s = of(stream);
  const auto size = static_cast<size_t>(bytes);
  if (bytes == 0) return;
  const bool from_own = !is_pageable(from), to_own = !is_pageable(to);
  if (s->is_capturing || from_own) {
    put(s, [=, this] {
      if (from_own) check_present(from, bytes);
      if (to_own) check_present(to, bytes);
      std::memcpy(to, from, size);
    });
  } else {
    const auto* const begin = static_cast<const std::byte*>(from);
    put(s, [to, to_own, this, kept = std::vector<std::byte>(begin, begin + size)] {
      if (to_own) check_present(to, std::ssize(kept));
      std::memcpy(to, kept.data(), kept.size());
    });
  }
  if (!s->is_capturing && !to_own) synchronise(stream);
}

void FakeRuntime::record(CardEvent event, CardStream stream) {
  FakeStream* const s = of(stream);
  refuse_in_capture(s, "an event is recorded");
  const std::lock_guard lock(mutex_);
  *of(event) = {s, s->put};
}

void FakeRuntime::wait(CardStream stream, CardEvent event) {
  FakeStream* const s = of(stream);
  refuse_in_capture(s, "an event is waited for");
  FakeEvent now;
  {
    const std::lock_guard lock(mutex_);
    now = *of(event);
  }
  if (now.stream != nullptr) put(s, {nullptr, now});
}

bool FakeRuntime::has_completed(CardEvent event) {
  std::unique_lock lock(mutex_);
  const FakeEvent now = *of(event);
  if (now.stream == nullptr || now.stream->done >= now.ticket) return true;
  if (is_running_ || random_() % 2 == 0) return false;
  run_until(lock, now.stream, now.ticket);
  return true;
}

void FakeRuntime::synchronise(CardEvent event) {
  FakeEvent now;
  {
    const std::lock_guard lock(mutex_);
    now = *of(event);
  }
  if (now.stream == nullptr) return;
  refuse_in_capture(now.stream, "an event is waited for");
  force(now.stream, now.ticket);
}

void FakeRuntime::synchronise(CardStream stream) {
  refuse_in_capture(of(stream), "the stream is waited for");
  force(of(stream), of(stream)->put);
}

void FakeRuntime::begin_capture(CardStream stream) {
  refuse_in_capture(of(stream), "another capture begins");
  of(stream)->is_capturing = true;
}

CardGraph FakeRuntime::end_capture(CardStream stream) {
  FakeStream* const s = of(stream);
  HOTSET_CHECK(s->is_capturing, "a capture ends that had not begun");
  s->is_capturing = false;
  return {new FakeGraph{
      std::make_shared<const std::vector<std::function<void()>>>(std::exchange(s->captured, {}))}};
}

void FakeRuntime::launch(CardGraph graph, CardStream stream) {
  put(of(stream), [all = of(graph)->work] {
    for (const auto& work : *all) work();
  });
}

void FakeRuntime::put(FakeStream* stream, Operation operation) {
  uint64_t ticket;
  {
    const std::lock_guard lock(mutex_);
    stream->queue.push_back(std::move(operation));
    ticket = ++stream->put;
  }
  if (options_.order == FakeOrder::kInOrder) force(stream, ticket);
}

void FakeRuntime::force(FakeStream* stream, uint64_t ticket) {
  std::unique_lock lock(mutex_);
  // In order, what other threads run is on other streams and has no say here: whatever this stream
  // waits for was done when it was put there.
  if (options_.order == FakeOrder::kLazy) idle_.wait(lock, [&] { return !is_running_; });
  run_until(lock, stream, ticket);
}

// Who runs operations leaves the mutex while one is under way: a kernel may wait for other threads
// of the host, and these may use the card meanwhile.
void FakeRuntime::run_until(std::unique_lock<std::mutex>& lock, FakeStream* stream,
                            uint64_t ticket) {
  const bool is_first = options_.order == FakeOrder::kLazy && !is_running_;
  if (is_first) is_running_ = true;
  while (stream->done < ticket) {
    Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (operation.work) {
      lock.unlock();
      operation.work();
      lock.lock();
    } else if (operation.after.stream->done < operation.after.ticket) {
      run_until(lock, operation.after.stream, operation.after.ticket);
    }
    ++stream->done;
  }
  if (is_first) {
    is_running_ = false;
    idle_.notify_all();
  }
}

}  // namespace

std::unique_ptr<CardRuntime> make_fake_runtime(const FakeOptions& options) {
  return std::make_unique<FakeRuntime>(options);
}

void fake_enqueue(CardStream stream, std::function<void()> work) {
  auto* const s = static_cast<FakeStream*>(stream.handle);
  s->card->put(s, std::move(work));
}

}  // namespace hotset
