#include "kernels/cuda/executor.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/block_thread.h"
#include "kernels/cuda/fake_runtime.h"
#include "kernels/cuda/fiber.h"
#include "kernels/cuda/shared_memory.h"

namespace hotset::emulated {
namespace {

struct FiberSlot {
  explicit FiberSlot(void (*entry)()) : fiber(entry) {}
  Fiber fiber;
  Thread* thread = nullptr;  // null: idle
};

[[noreturn]] void fail(Site site, const std::string& why) {
  check_failed(site.file, site.line, "emulated card", why.c_str());
}

class Executor {
 public:
  void run(const Grid& grid, void (*body)(void*), void* context);
  int barrier(Reduction reduction, bool predicate, Site site);
  uint64_t collective(Collective kind, uint32_t mask, uint64_t value, int operand, int width,
                      Site site);
  void sleep(Site site);
  SharedMemory& shared() { return shared_; }

  ExecutorOptions options;

 private:
  static void fiber_main();
  void begin_block();
  void end_fibers();
  void run_threads();
  void wait(Wait what, Site site);
  void go_on(FiberSlot* from);
  FiberSlot* next();
  void end_thread(int rank);
  Open& join_collective(const Thread& t);
  void finish_collective(const Open& open, Thread& last);
  void make_ready(int rank) { ready_.push_back(fiber_of_[rank]); }
  template <class Each>
  void in_order(int first, int count, const Each& each);

  std::vector<std::unique_ptr<FiberSlot>> fibers_;
  std::vector<FiberSlot*> idle_, spent_;  // spent: idle later
  Context host_;
  FiberSlot* current_ = nullptr;
  Context* came_from_ = nullptr;
  SharedMemory shared_;

  // The running grid and block.
  Grid grid_;
  void (*body_)(void*) = nullptr;
  void* context_ = nullptr;
  bool is_running_ = false;
  int count_ = 0;
  std::vector<int> order_;  // of threads
  std::vector<Thread> threads_;
  std::vector<FiberSlot*> fiber_of_;  // [rank]
  struct Warp {
    uint32_t lanes = 0, ended = 0;
    std::vector<Open> open;
    char order[2] = {};  // addresses for hand_over
    unsigned collectives = 0;
  };
  std::vector<Warp> warps_;
  int started_ = 0, ended_ = 0;
  std::deque<FiberSlot*> ready_;
  std::mt19937 random_;
  char begun_ = 0, done_ = 0, barrier_order_[2] = {};  // addresses for hand_over
  unsigned barriers_ = 0;
  int arrived_ = 0;  // at the barrier
  Site barrier_site_ = {};
  Reduction reduction_ = Reduction::kNone;
  int votes_ = 0, result_ = 0;
  int64_t polls_ = 0;
};

Executor& executor() {
  thread_local Executor one;
  return one;
}

void Executor::run(const Grid& grid, void (*body)(void*), void* context) {
  const Hidden hidden;
  HOTSET_CHECK(!is_running_, "a kernel of the emulated card launches a kernel");
  const dim3 &g = grid.grid, &b = grid.block;
  count_ = static_cast<int>(b.x * b.y * b.z);
  HOTSET_CHECK(count_ >= 1 && count_ <= 1024, "a block has 1 to 1024 threads");
  HOTSET_CHECK(g.x >= 1 && g.y >= 1 && g.z >= 1 && g.y <= 65535 && g.z <= 65535,
               "a grid has 1 to 65535 blocks in y and in z, and one at least in x");
  is_running_ = true;
  grid_ = grid;
  body_ = body;
  context_ = context;
  random_.seed(options.seed);
  adopt_thread(host_);
  const Place before = place;
  place.block_size = b;
  place.grid_size = g;
  for (unsigned z = 0; z < g.z; ++z) {
    for (unsigned y = 0; y < g.y; ++y) {
      for (unsigned x = 0; x < g.x; ++x) {
        place.block = dim3(x, y, z);
        begin_block();
        hand_over(&begun_);
        go_on(nullptr);
        if (!options.are_blocks_unordered) take_over(&done_);
        HOTSET_CHECK(ended_ == count_, "the emulated card lost a thread");
      }
    }
  }
  take_over(&done_);
  end_fibers();
  place = before;
  is_running_ = false;
}

void Executor::begin_block() {
  order_.resize(static_cast<size_t>(count_));
  std::iota(order_.begin(), order_.end(), 0);
  if (options.order == ThreadOrder::kReverse) std::reverse(order_.begin(), order_.end());
  if (options.order == ThreadOrder::kRandom) std::shuffle(order_.begin(), order_.end(), random_);
  threads_.assign(static_cast<size_t>(count_), Thread{});
  fiber_of_.assign(static_cast<size_t>(count_), nullptr);
  warps_.resize(static_cast<size_t>((count_ + kWarp - 1) / kWarp));
  for (int i = 0; i < static_cast<int>(warps_.size()); ++i) {
    const int lanes = std::min(kWarp, count_ - i * kWarp);
    const uint32_t mask = lanes == kWarp ? 0xffffffffu : (uint32_t{1} << lanes) - 1;
    warps_[static_cast<size_t>(i)].lanes = mask;
    warps_[static_cast<size_t>(i)].ended = 0;
    warps_[static_cast<size_t>(i)].open.clear();
  }
  if (!options.are_blocks_unordered) end_fibers();
  started_ = ended_ = arrived_ = votes_ = 0;
  polls_ = 0;
  shared_.begin_block(grid_.shared_bytes);
}

// What a fiber ran is ordered before what it runs next.
void Executor::end_fibers() {
  idle_.insert(idle_.end(), spent_.begin(), spent_.end());
  spent_.clear();
}

// Runs threads that have not started, one after another on the same stack where they do not wait.
void Executor::run_threads() {
  while (started_ < count_) {
    const int rank = order_[static_cast<size_t>(started_++)];
    Thread& t = threads_[static_cast<size_t>(rank)];
    const auto r = static_cast<unsigned>(rank);
    const dim3& b = grid_.block;
    t.rank = rank;
    t.index = dim3(r % b.x, r / b.x % b.y, r / (b.x * b.y));
    current_->thread = &t;
    fiber_of_[static_cast<size_t>(rank)] = current_;
    place.thread = t.index;
    take_over(&begun_);
    {
      const Visible visible;
      body_(context_);
    }
    hand_over(&done_);
    current_->thread = nullptr;
    end_thread(rank);
    if (kIsThreadSanitized) break;  // a thread of its own for each thread of a block
  }
}

void Executor::end_thread(int rank) {
  Warp& warp = warps_[static_cast<size_t>(rank / kWarp)];
  const uint32_t lane = uint32_t{1} << rank % kWarp;
  warp.ended |= lane;
  ++ended_;
  polls_ = 0;
  if (arrived_ > 0) {
    fail(barrier_site_, fmt::format("thread {} has ended while others wait at this barrier, which "
                                    "all threads of the block must reach",
                                    rank));
  }
  for (const Open& open : warp.open) {
    if (!(open.mask & lane)) continue;
    fail(open.site, fmt::format("lane {} has ended while others of mask {:#010x} wait for it",
                                rank % kWarp, open.mask));
  }
}

void Executor::fiber_main() {
  Executor& e = executor();
  const Hidden hidden;
  enter_context(*e.came_from_);
  while (true) {
    e.run_threads();
    (kIsThreadSanitized ? e.spent_ : e.idle_).push_back(e.current_);
    e.go_on(e.current_);
  }
}

// The fiber that runs next; null: the host, since the block is done.
FiberSlot* Executor::next() {
  if (started_ < count_) {
    if (idle_.empty()) {
      fibers_.push_back(std::make_unique<FiberSlot>(fiber_main));
      idle_.push_back(fibers_.back().get());
    }
    FiberSlot* const fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }
  if (ended_ == count_) return nullptr;
  if (ready_.empty()) {
    const Thread* stuck = nullptr;
    for (const Thread& t : threads_) {
      if (t.wait != Wait::kNothing) stuck = &t;
    }
    fail(stuck->site, "deadlock: every thread waits for another: " + waiting(threads_));
  }
  if (options.order == ThreadOrder::kRandom) {
    std::swap(ready_.front(), ready_[random_() % ready_.size()]);
  }
  FiberSlot* const fiber = ready_.front();
  ready_.pop_front();
  return fiber;
}

// Leaves `from` (null: the host) for whoever is next.
void Executor::go_on(FiberSlot* from) {
  FiberSlot* const to = next();
  if (to == from) return;
  Context& left = from == nullptr ? host_ : from->fiber.context;
  came_from_ = &left;
  current_ = to;
  if (to != nullptr && to->thread != nullptr) place.thread = to->thread->index;
  const Visible while_away;  // a fiber may end there
  switch_context(left, to == nullptr ? host_ : to->fiber.context);
}

void Executor::wait(Wait what, Site site) {
  FiberSlot* const self = current_;
  self->thread->wait = what;
  self->thread->site = site;
  go_on(self);
  self->thread->wait = Wait::kNothing;
}

// Calls each(rank) for the ranks [first, first + count) in the order of the options.
template <class Each>
void Executor::in_order(int first, int count, const Each& each) {
  for (int i = 0; i < count; ++i) {
    each(options.order == ThreadOrder::kReverse ? first + count - 1 - i : first + i);
  }
}

int Executor::barrier(Reduction reduction, bool predicate, Site site) {
  const Hidden hidden;
  // Two take turns: the first to wake may be at the next barrier while others wake from this one.
  char* const order = &barrier_order_[barriers_ % 2];
  hand_over(order);
  if (ended_ > 0) {
    fail(site, fmt::format("{} of {} threads have ended before this barrier, which all threads of "
                           "the block must reach",
                           ended_, count_));
  }
  if (arrived_ == 0) {
    barrier_site_ = site;
    reduction_ = reduction;
    votes_ = 0;
  }
  if (site.line != barrier_site_.line || std::strcmp(site.file, barrier_site_.file) != 0 ||
      reduction != reduction_) {
    fail(site, fmt::format("threads of a block wait at different barriers: others at {}:{}",
                           barrier_site_.file, barrier_site_.line));
  }
  votes_ += predicate ? 1 : 0;
  if (++arrived_ < count_) {
    wait(Wait::kBarrier, site);
    take_over(order);
    return result_;
  }
  take_over(order);
  ++barriers_;
  arrived_ = 0;
  result_ = reduction == Reduction::kAnd  ? votes_ == count_
            : reduction == Reduction::kOr ? votes_ > 0
                                          : votes_;
  const int self = current_->thread->rank;
  in_order(0, count_, [&](int rank) {
    if (rank != self) make_ready(rank);
  });
  polls_ = 0;
  return result_;
}

// All lanes of the mask have come: gives each what it asked for, and lets the others go on.
void Executor::finish_collective(const Open& open, Thread& last) {
  const int first = last.rank / kWarp * kWarp;
  std::array<uint64_t, kWarp> values = {};
  uint64_t ballot = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(open.mask >> lane & 1)) continue;
    values[static_cast<size_t>(lane)] = threads_[static_cast<size_t>(first + lane)].value;
    if (values[static_cast<size_t>(lane)] != 0) ballot |= uint64_t{1} << lane;
  }
  in_order(first, std::min(kWarp, count_ - first), [&](int rank) {
    const int lane = rank - first;
    if (!(open.mask >> lane & 1)) return;
    Thread& t = threads_[static_cast<size_t>(rank)];
    if (open.kind == Collective::kBallot) {
      t.value = ballot;
    } else if (open.kind != Collective::kSync) {
      const int source = source_lane(t, lane);
      if (source >= 0 && !(open.mask >> source & 1)) {
        fail(t.site, fmt::format("lane {} reads lane {}, which mask {:#010x} leaves out", lane,
                                 source, open.mask));
      }
      if (source >= 0) t.value = values[static_cast<size_t>(source)];
    }
    if (&t == &last) return;
    t.wait = Wait::kNothing;
    make_ready(rank);
  });
  polls_ = 0;
}

uint64_t Executor::collective(Collective kind, uint32_t mask, uint64_t value, int operand,
                              int width, Site site) {
  const Hidden hidden;
  Thread& self = *current_->thread;
  const int lane = self.rank % kWarp;
  if (!(mask >> lane & 1)) {
    fail(site, fmt::format("lane {} is not in its own mask {:#010x}", lane, mask));
  }
  if (width < 1 || width > kWarp || (width & (width - 1)) != 0) {
    fail(site, fmt::format("width {} is no power of two up to 32", width));
  }
  self.kind = kind;
  self.mask = mask;
  self.value = value;
  self.operand = operand;
  self.width = width;
  self.site = site;
  Warp& warp = warps_[static_cast<size_t>(self.rank / kWarp)];
  char* const order = &warp.order[warp.collectives % 2];
  hand_over(order);
  Open& open = join_collective(self);
  open.arrived |= uint32_t{1} << lane;
  if (open.arrived != mask) {
    wait(Wait::kCollective, site);
    take_over(order);
    return self.value;
  }
  finish_collective(open, self);
  take_over(order);
  ++warp.collectives;
  std::vector<Open>& all = warp.open;
  all[static_cast<size_t>(&open - all.data())] = all.back();
  all.pop_back();
  return self.value;
}

// The collective of the thread's warp and mask, which begins if it is the first to come.
Open& Executor::join_collective(const Thread& t) {
  Warp& warp = warps_[static_cast<size_t>(t.rank / kWarp)];
  for (Open& open : warp.open) {
    if (open.mask != t.mask) continue;
    if (open.kind != t.kind) {
      fail(t.site,
           fmt::format("lanes of mask {:#010x} disagree: {} here, {} at {}:{}", t.mask,
                       name_of(t.kind), name_of(open.kind), open.site.file, open.site.line));
    }
    return open;
  }
  if ((t.mask & ~warp.lanes) != 0) {
    fail(t.site, fmt::format("mask {:#010x} names lanes that the block does not have", t.mask));
  }
  if ((t.mask & warp.ended) != 0) {
    fail(t.site, fmt::format("mask {:#010x} names lanes that have ended ({:#010x})", t.mask,
                             t.mask & warp.ended));
  }
  return warp.open.emplace_back(Open{t.mask, 0, t.kind, t.site});
}

void Executor::sleep(Site site) {
  const Hidden hidden;
  if (ready_.empty() && started_ == count_) {
    if (options.on_poll) {
      const Visible visible;
      options.on_poll();
    }
    if (++polls_ > options.polls_max) {
      fail(site,
           fmt::format("spin: {} polls and nothing has changed: {}", polls_, waiting(threads_)));
    }
    sched_yield();  // to whoever is waited for
    return;
  }
  ready_.push_back(current_);
  wait(Wait::kSleep, site);
}

}  // namespace

ExecutorScope::ExecutorScope(ExecutorOptions options)
    : before_(std::exchange(executor().options, std::move(options))) {}

ExecutorScope::~ExecutorScope() {
  executor().options = std::move(before_);
}

void enqueue(CardStream stream, std::function<void()> work) {
  if (stream.handle == nullptr) return work();
  fake_enqueue(stream, std::move(work));
}
void run_grid(const Grid& grid, void (*body)(void*), void* context) {
  executor().run(grid, body, context);
}
int block_barrier(Reduction reduction, bool predicate, Site site) {
  return executor().barrier(reduction, predicate, site);
}
uint64_t warp_collective(Collective kind, uint32_t mask, uint64_t value, int operand, int width,
                         Site site) {
  return executor().collective(kind, mask, value, operand, width, site);
}
void sleep_on_card(Site site) {
  executor().sleep(site);
}
void* dynamic_shared() {
  const Hidden hidden;
  return executor().shared().dynamic();
}
void* static_shared(const void* key, size_t bytes) {
  const Hidden hidden;
  return executor().shared().named(key, bytes);
}

}  // namespace hotset::emulated
