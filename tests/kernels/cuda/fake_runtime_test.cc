// The host's card keeps the rules of CUDA's streams, events, graphs and copies, so that what passes
// on it has waited for everything it uses.
#include "kernels/cuda/fake_runtime.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "kernels/check.h"

namespace hotset::test {
namespace {

using Place = CardMemory::Place;

class FakeRuntimeTest : public testing::Test {
 protected:
  void use(FakeOrder order, uint64_t seed = 1) {
    card_ = make_fake_runtime({.order = order, .seed = seed, .memory_bytes = 1 << 20});
    a_ = card_->open_stream(StreamPriority::kNormal);
    b_ = card_->open_stream(StreamPriority::kLow);
  }
  // Work that writes down its name.
  void note(CardStream stream, char name) {
    fake_enqueue(stream, [this, name] { done_ += name; });
  }
  std::unique_ptr<CardRuntime> card_;
  CardStream a_, b_;
  std::string done_;
};

TEST_F(FakeRuntimeTest, MemoryBeginsAsNonsenseAndHasALimit) {
  use(FakeOrder::kInOrder);
  for (const Place place : {Place::kCard, Place::kPinned}) {
    const CardMemory memory(*card_, place, 1000, "test");
    EXPECT_EQ(std::count(memory.data(), memory.data() + 1000, std::byte{0xFF}), 1000);
  }
  EXPECT_EQ(card_->memory_info().free_bytes, 1 << 20);
  const CardMemory most(*card_, Place::kCard, 1 << 20, "all of it");
  EXPECT_EQ(card_->memory_info().free_bytes, 0);
  try {
    const CardMemory more(*card_, Place::kCard, 1, "keys and values");
    FAIL() << "an allocation beyond the card's memory";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("keys and values"), std::string::npos);
  }
}

TEST_F(FakeRuntimeTest, AReservationGrowsInPlaceWithinTheCardsMemory) {
  use(FakeOrder::kInOrder);
  CardReservation r(*card_, 4 << 20, "test");
  const int64_t free = card_->memory_info().free_bytes;
  r.commit(1000);
  EXPECT_EQ(card_->memory_info().free_bytes, free - 1000);
  std::fill_n(r.data(), 1000, std::byte{7});
  r.commit(5000);
  EXPECT_EQ(std::count(r.data(), r.data() + 1000, std::byte{7}), 1000);
  EXPECT_EQ(std::count(r.data() + 1000, r.data() + 5000, std::byte{0xFF}), 4000);
  r.commit(10);
  EXPECT_EQ(card_->memory_info().free_bytes, free - 10);
  r.commit(20);
  EXPECT_EQ(r.data()[9], std::byte{7});
  EXPECT_EQ(r.data()[10], std::byte{0xFF}) << "what went is gone";
  EXPECT_THROW(r.commit(2 << 20), Error);
  EXPECT_EQ(r.bytes(), 20);
  EXPECT_EQ(card_->memory_info().free_bytes, free - 20);
}

TEST_F(FakeRuntimeTest, ACopyWhoseMemoryHasGoneBeforeItsTurnEndsTheProgram) {
  use(FakeOrder::kLazy);
  CardReservation r(*card_, 4 << 20, "test");
  r.commit(2000);
  const std::vector<std::byte> from(1500);
  card_->copy(a_, r.data(), from.data(), 1500);
  r.commit(1500);
  card_->synchronise(a_);
  card_->copy(a_, r.data(), from.data(), 1500);
  r.commit(1499);
  EXPECT_DEATH(card_->synchronise(a_), "a card.s memory is used that has been given back");
  r.commit(2000);
}

TEST_F(FakeRuntimeTest, InOrderWorkIsDoneAtOnce) {
  use(FakeOrder::kInOrder);
  note(a_, 'x');
  EXPECT_EQ(done_, "x");
}

TEST_F(FakeRuntimeTest, LazyWorkIsDoneOnlyWhenItIsWaitedFor) {
  use(FakeOrder::kLazy);
  note(a_, '1');
  note(b_, '2');
  note(a_, '3');
  EXPECT_EQ(done_, "");
  card_->synchronise(a_);
  EXPECT_EQ(done_, "13");
  card_->synchronise(b_);
  EXPECT_EQ(done_, "132");
}

TEST_F(FakeRuntimeTest, StreamsAreOrderedByEventsAndByNothingElse) {
  use(FakeOrder::kLazy);
  const CardEvent event = card_->open_event();
  note(a_, '1');
  card_->record(event, a_);
  note(a_, '2');  // after the record: not waited for
  card_->wait(b_, event);
  note(b_, '3');
  card_->synchronise(b_);
  EXPECT_EQ(done_, "13");
  card_->synchronise(a_);
  EXPECT_EQ(done_, "132");
  card_->close_event(event);
}

TEST_F(FakeRuntimeTest, AWaitIsForTheEventAsItWasThen) {
  use(FakeOrder::kLazy);
  const CardEvent event = card_->open_event();
  card_->wait(b_, event);  // never recorded: nothing
  note(a_, '1');
  card_->record(event, a_);
  card_->wait(b_, event);
  note(a_, '2');
  card_->record(event, a_);
  note(b_, '3');
  card_->synchronise(b_);
  EXPECT_EQ(done_, "13");
  card_->synchronise(event);
  EXPECT_EQ(done_, "132");
  card_->close_event(event);
}

TEST_F(FakeRuntimeTest, AskingAnEventMaySayNotYetButNotForEver) {
  use(FakeOrder::kLazy);
  const CardEvent event = card_->open_event();
  EXPECT_TRUE(card_->has_completed(event));
  int not_yet = 0;
  for (int i = 0; i < 100; ++i) {
    note(a_, 'x');
    card_->record(event, a_);
    while (!card_->has_completed(event)) ++not_yet;
    EXPECT_EQ(std::ssize(done_), i + 1);
  }
  EXPECT_GT(not_yet, 10);
  card_->close_event(event);
}

TEST_F(FakeRuntimeTest, PinnedSourcesAreReadLateAndPageableOnesAtOnce) {
  use(FakeOrder::kLazy);
  const CardMemory pinned(*card_, Place::kPinned, 8, "test"), to(*card_, Place::kCard, 16, "test");
  std::vector<uint64_t> pageable = {1};
  *pinned.as<uint64_t>() = 1;
  card_->copy(a_, to.data(), pageable.data(), 8);
  card_->copy(a_, to.data() + 8, pinned.data(), 8);
  pageable[0] = *pinned.as<uint64_t>() = 2;
  EXPECT_EQ(to.as<uint64_t>()[0], ~uint64_t{0});
  card_->synchronise(a_);
  EXPECT_EQ(to.as<uint64_t>()[0], 1U);
  EXPECT_EQ(to.as<uint64_t>()[1], 2U);
  // Into pageable memory a copy is complete when the call returns.
  card_->fill(a_, to.data(), 7, 8);
  card_->copy(a_, pageable.data(), to.data(), 8);
  EXPECT_EQ(pageable[0], 0x0707070707070707U);
}

TEST_F(FakeRuntimeTest, ACaptureKeepsWorkForItsLaunches) {
  for (const FakeOrder order : {FakeOrder::kInOrder, FakeOrder::kLazy}) {
    use(order);
    done_.clear();
    card_->begin_capture(a_);
    note(a_, '1');
    note(a_, '2');
    EXPECT_THROW(card_->synchronise(a_), Error);
    const CardEvent event = card_->open_event();
    EXPECT_THROW(card_->record(event, a_), Error);
    card_->close_event(event);
    const CardGraph graph = card_->end_capture(a_);
    card_->synchronise(a_);
    EXPECT_EQ(done_, "");
    card_->launch(graph, a_);
    note(a_, '3');
    card_->launch(graph, a_);
    card_->close_graph(graph);
    card_->synchronise(a_);
    EXPECT_EQ(done_, "12312");
  }
}

// A kernel that waits for another thread of the host must not keep that one from using the card.
TEST_F(FakeRuntimeTest, WorkThatWaitsForAThreadLeavesTheCardToIt) {
  for (const FakeOrder order : {FakeOrder::kInOrder, FakeOrder::kLazy}) {
    use(order);
    const CardEvent event = card_->open_event();
    std::atomic<bool> is_answered = false;
    std::jthread other([&] {
      card_->fill(b_, nullptr, 0, 0);
      card_->record(event, b_);
      card_->has_completed(event);
      is_answered = true;
    });
    fake_enqueue(a_, [&] {
      while (!is_answered) std::this_thread::yield();
    });
    card_->synchronise(a_);
    other.join();
    card_->synchronise(event);
    card_->close_event(event);
  }
}

}  // namespace
}  // namespace hotset::test
