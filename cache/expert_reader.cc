#include "cache/expert_reader.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace hotset {

namespace {

constexpr int64_t kPage = 4096;

int64_t to_ns(std::chrono::steady_clock::duration time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

}  // namespace

ExpertReader::ExpertReader(ExpertSource& source, Recorder& recorder, int threads, int32_t reads)
    : source_(source),
      recorder_(recorder),
      parts_(source.parts()),
      guesses_at_once_(std::max(1, threads / 2)),
      stride_((source.landing_bytes() + kPage - 1) / kPage * kPage),
      landings_(stride_ * reads, "experts that have been read"),
      reads_(reads) {
  HOTSET_CHECK(threads >= 1 && reads >= 1, "somebody must read, and into something");
  threads_.reserve(threads);
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { work(stop); });
  }
}

ExpertReader::~ExpertReader() {
  for (std::jthread& thread : threads_) thread.request_stop();  // all before the first is joined
}

std::byte* ExpertReader::landing(const Read& read) const {
  return landings_.data() + (&read - reads_.data()) * stride_;
}

// There are a few dozen reads: looking at all of them costs less than any order kept among them.
ExpertReader::Read* ExpertReader::find(ExpertId id) {
  for (Read& read : reads_) {
    if (read.state != State::kIdle && !read.is_dropped && read.id == id) return &read;
  }
  return nullptr;
}

// What is needed before what is guessed, then in the order of asking: the next layer's guesses are
// made heaviest first.
//
// Half of the threads read no guesses: a read that has begun is not taken back, and what a layer
// misses would find the disk busy with what it might not even have guessed right.
ExpertReader::Read* ExpertReader::next_to_read() {
  int32_t guessing = 0;
  for (const Read& read : reads_) guessing += read.is_needed ? 0 : read.parts_under_way;
  const bool may_guess = guessing < guesses_at_once_;
  Read* best = nullptr;
  for (Read& read : reads_) {
    if (read.state != State::kQueued && read.state != State::kReading) continue;
    if (read.is_dropped || read.parts_begun == parts_) continue;
    if (!read.is_needed && !may_guess) continue;
    const auto rank = [](const Read& r) { return std::pair(!r.is_needed, r.order); };
    if (best == nullptr || rank(read) < rank(*best)) best = &read;
  }
  return best;
}

ExpertReader::Read* ExpertReader::free_read() {
  for (Read& read : reads_) {
    if (read.state == State::kIdle) return &read;
  }
  return nullptr;
}

void ExpertReader::start(Read& read, ExpertId id) {
  HOTSET_CHECK(read.state == State::kIdle, "a read that is started is idle");
  read = Read();
  read.state = State::kQueued;
  read.id = id;
  read.order = order_++;
  read.to = landing(read);
}

// An expert has parts for several threads, so all are woken at once: each waking the next let the
// last begin a good deal later.
bool ExpertReader::need(ExpertId id, std::byte* in_place) {
  {
    const std::lock_guard lock(mutex_);
    Read* read = find(id);
    if (read != nullptr) {
      HOTSET_CHECK(!read->is_needed, "an event needs an expert once");
      ++stats_.used;
      if (read->state == State::kLanded) stats_.hidden_ns += to_ns(read->ended - read->begun);
    } else {
      read = free_read();
      if (read == nullptr) {
        // The guess that was made last gives way, unless it is being read: its landing is not free
        // before that ends.
        for (Read& other : reads_) {
          const bool is_movable = other.state == State::kQueued || other.state == State::kLanded;
          if (other.is_needed || !is_movable) continue;
          if (read == nullptr || other.order > read->order) read = &other;
        }
        if (read == nullptr) return false;
        drop(*read);
      }
      start(*read, id);
      if (in_place != nullptr) {
        read->to = in_place;
        read->is_in_place = true;
      }
    }
    ++stats_.needed;
    read->is_needed = true;
    read->needed = Clock::now();
  }
  queued_.notify_all();
  return true;
}

void ExpertReader::expect(ExpertId id) {
  {
    const std::lock_guard lock(mutex_);
    Read* read = find(id) == nullptr ? free_read() : nullptr;
    if (read == nullptr) return;
    start(*read, id);
    read->was_guess = true;
    ++stats_.guesses;
  }
  queued_.notify_all();
}

void ExpertReader::drop_expected(int32_t layer) {
  const std::lock_guard lock(mutex_);
  for (Read& read : reads_) {
    if (read.state != State::kIdle && !read.is_needed && read.id.layer == layer) drop(read);
  }
}

void ExpertReader::drop(Read& read) {
  if (!read.is_needed) stats_.bytes_unused += read.bytes;
  if (read.parts_under_way > 0) {
    read.is_dropped = true;
  } else {
    read.state = State::kIdle;
    read.error = nullptr;
  }
}

size_t ExpertReader::take_landed(std::span<Landed> out) {
  std::unique_lock lock(mutex_);
  const auto has_landed = [](const Read& r) { return r.state == State::kLanded && r.is_needed; };
  if (std::none_of(reads_.begin(), reads_.end(), has_landed)) {
    HOTSET_CHECK(std::any_of(reads_.begin(), reads_.end(),
                             [](const Read& r) {
                               return r.is_needed && !r.is_dropped &&
                                      (r.state == State::kQueued || r.state == State::kReading);
                             }),
                 "nothing that could land was asked for");
    const auto start = Clock::now();
    landed_.wait(lock, [&] { return std::any_of(reads_.begin(), reads_.end(), has_landed); });
    stats_.waited_ns += to_ns(Clock::now() - start);
  }
  size_t count = 0;
  for (Read& read : reads_) {
    if (count == out.size()) break;
    if (!has_landed(read)) continue;
    if (read.error) std::rethrow_exception(std::exchange(read.error, nullptr));
    read.state = State::kTaken;
    out[count++] = {static_cast<ReadId>(&read - reads_.data()),
                    read.id,
                    read.to,
                    read.bytes,
                    to_ns(read.ended - read.begun),
                    read.was_guess};
  }
  return count;
}

void ExpertReader::release(ReadId id) {
  const std::lock_guard lock(mutex_);
  HOTSET_CHECK(reads_[id].state == State::kTaken, "what is released was taken");
  reads_[id].state = State::kIdle;
}

void ExpertReader::cancel_needed() {
  std::unique_lock lock(mutex_);
  for (Read& read : reads_) {
    if (read.state != State::kIdle && read.is_needed) drop(read);
  }
  landed_.wait(lock, [&] {
    return std::none_of(reads_.begin(), reads_.end(), [](const Read& r) {
      return r.state != State::kIdle && r.is_needed && r.is_in_place;
    });
  });
}

void ExpertReader::work(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (true) {
    Read* read = nullptr;
    queued_.wait(lock, stop, [&] { return (read = next_to_read()) != nullptr; });
    if (stop.stop_requested()) return;
    if (read->parts_begun == 0) read->begun = Clock::now();
    read->state = State::kReading;
    const int32_t part = read->parts_begun++;
    ++read->parts_under_way;
    const ExpertId id = read->id;
    std::byte* const to = read->to;
    lock.unlock();
    int64_t bytes = 0;
    std::exception_ptr error;
    try {
      auto range = recorder_.range(RangeName::kRead, id.layer, 1, stride_ / parts_);
      bytes = source_.read(id, part, to);
      range.moved(1, bytes);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    finish_part(*read, bytes, std::move(error));
  }
}

void ExpertReader::finish_part(Read& read, int64_t bytes, std::exception_ptr error) {
  --read.parts_under_way;
  read.bytes += bytes;
  if (read.is_dropped && !read.is_needed) stats_.bytes_unused += bytes;
  if (error) {
    if (!read.error) read.error = std::move(error);
    read.parts_begun = parts_;  // the others need not be tried
  }
  if (read.parts_under_way > 0 || (read.parts_begun < parts_ && !read.is_dropped)) return;
  if (read.is_dropped || (read.error && !read.is_needed)) {  // a step that needs it tries again
    read.state = State::kIdle;
    read.error = nullptr;
  } else {
    read.state = State::kLanded;
    read.ended = Clock::now();
    if (read.was_guess && read.is_needed && read.needed > read.begun) {
      stats_.hidden_ns += to_ns(read.needed - read.begun);
    }
  }
  landed_.notify_all();
}

ReadAheadStats ExpertReader::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void ExpertReader::verify() const {
  const std::lock_guard lock(mutex_);
  for (const Read& read : reads_) {
    HOTSET_CHECK(read.parts_under_way >= 0 && read.parts_under_way <= read.parts_begun,
                 "more parts end than begin");
    HOTSET_CHECK(read.state == State::kReading || read.parts_under_way == 0,
                 "only what is being read has parts under way");
    HOTSET_CHECK(!read.is_dropped || read.state == State::kReading || read.state == State::kIdle,
                 "what was given up is idle as soon as its reads have ended");
    if (read.state == State::kIdle) continue;
    for (const Read& other : reads_) {
      HOTSET_CHECK(&other == &read || other.state == State::kIdle || other.is_dropped ||
                       read.is_dropped || !(other.id == read.id),
                   "an expert is read twice at once");
    }
  }
  HOTSET_CHECK(stats_.used <= stats_.guesses && stats_.used <= stats_.needed,
               "more guesses were used than made");
}

}  // namespace hotset
