// An emulated card that a test looks at, or lets fail, call by call.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "kernels/cuda/fake_runtime.h"

namespace hotset::test {

class WatchedRuntime : public CardRuntime {
 public:
  explicit WatchedRuntime(const FakeOptions& options = {}) : card_(make_fake_runtime(options)) {}
  // Memory, addresses and streams that have not been given back.
  std::atomic<int64_t> held = 0;

  std::string name() const override { return card_->name(); }
  bool is_emulated() const override { return true; }
  CardMemoryInfo memory_info() override { return card_->memory_info(); }
  std::byte* allocate(int64_t bytes, const char* what) override {
    before("allocate", {});
    return hold(card_->allocate(bytes, what));
  }
  void release(std::byte* memory) noexcept override {
    --held;
    card_->release(memory);
  }
  std::byte* allocate_pinned(int64_t bytes, const char* what) override {
    before("allocate", {});
    return hold(card_->allocate_pinned(bytes, what));
  }
  void release_pinned(std::byte* memory) noexcept override {
    --held;
    card_->release_pinned(memory);
  }
  std::byte* reserve(int64_t bytes, const char* what) override {
    return hold(card_->reserve(bytes, what));
  }
  void commit(std::byte* reservation, int64_t bytes, const char* what) override {
    before("allocate", {});
    card_->commit(reservation, bytes, what);
  }
  void release_reservation(std::byte* reservation) noexcept override {
    --held;
    card_->release_reservation(reservation);
  }
  CardStream open_stream(StreamPriority priority) override {
    const CardStream stream = card_->open_stream(priority);
    if (priority == StreamPriority::kLow) low_ = stream;
    return hold(stream);
  }
  void close_stream(CardStream stream) noexcept override {
    --held;
    card_->close_stream(stream);
  }
  CardEvent open_event() override { return card_->open_event(); }
  void close_event(CardEvent event) noexcept override { card_->close_event(event); }
  void copy(CardStream stream, void* to, const void* from, int64_t bytes) override {
    before("copy", stream);
    card_->copy(stream, to, from, bytes);
  }
  void fill(CardStream stream, void* to, uint8_t byte, int64_t bytes) override {
    before("fill", stream);
    card_->fill(stream, to, byte, bytes);
  }
  void record(CardEvent event, CardStream stream) override {
    before("record", stream);
    card_->record(event, stream);
  }
  void wait(CardStream stream, CardEvent event) override {
    before("wait", stream);
    card_->wait(stream, event);
  }
  bool has_completed(CardEvent event) override {
    before("has_completed", low_);
    return card_->has_completed(event);
  }
  void synchronise(CardEvent event) override { card_->synchronise(event); }
  void synchronise(CardStream stream) override {
    before("synchronise", stream);
    card_->synchronise(stream);
  }
  void begin_capture(CardStream stream) override {
    before("begin_capture", stream);
    card_->begin_capture(stream);
  }
  CardGraph end_capture(CardStream stream) override {
    before("end_capture", stream);
    return card_->end_capture(stream);
  }
  void launch(CardGraph graph, CardStream stream) override {
    before("launch", stream);
    card_->launch(graph, stream);
  }
  void close_graph(CardGraph graph) noexcept override { card_->close_graph(graph); }
  void set_profiling(bool on) override { card_->set_profiling(on); }

 protected:
  // A call is about to be made, on a stream or none; may throw. Calls of other threads come, too.
  virtual void before(const std::string& call, CardStream stream) = 0;
  bool is_copies(CardStream stream) const { return stream.handle == low_.handle; }

 private:
  template <class Thing>
  Thing hold(Thing thing) {
    ++held;
    return thing;
  }

  const std::unique_ptr<CardRuntime> card_;
  CardStream low_;  // the copies'
};

class FailingRuntime : public WatchedRuntime {
 public:
  using WatchedRuntime::WatchedRuntime;
  // From this call on every one fails: the steps' and the copies', or only the copies'. The card is
  // lost with it, unless only copies fail or it is not to be.
  std::atomic<int64_t> calls_left = INT64_MAX;
  bool only_copies = false, is_lost = true;

 private:
  void before(const std::string& call, CardStream stream) override {
    if (only_copies && !is_copies(stream)) return;
    if (--calls_left >= 0) return;
    throw CardError("the card: has fallen off, said a " + call, is_lost && !only_copies);
  }
};

}  // namespace hotset::test
