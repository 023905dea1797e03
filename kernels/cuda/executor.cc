#include "kernels/cuda/executor.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/fake_runtime.h"
#include "kernels/cuda/fiber.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

namespace hotset::emulated {
namespace {

constexpr int kWarp = 32;
constexpr size_t kSharedBytes = 227 * 1024;  // what a block of today's largest cards can have
constexpr size_t kSharedGap = 64;            // between arrays, for AddressSanitizer

enum class Wait { kNothing, kBarrier, kCollective, kSleep };

const char* name_of(Collective kind) {
  switch (kind) {
    case Collective::kSync:
      return "__syncwarp";
    case Collective::kShuffle:
      return "__shfl_sync";
    case Collective::kShuffleUp:
      return "__shfl_up_sync";
    case Collective::kShuffleDown:
      return "__shfl_down_sync";
    case Collective::kShuffleXor:
      return "__shfl_xor_sync";
    case Collective::kBallot:
      return "a vote";
  }
  return "";
}

// A thread of the running block, from its start to its end.
struct Thread {
  int rank = 0;
  dim3 index;
  Wait wait = Wait::kNothing;
  Site site = {};
  // In a collective:
  Collective kind = Collective::kSync;
  uint32_t mask = 0;
  uint64_t value = 0;  // deposited, later what it gets
  int operand = 0, width = kWarp;
};

// A collective that some lanes of its mask have reached.
struct Open {
  uint32_t mask, arrived;
  Collective kind;
  Site site;  // of the lane that came first
};

struct FiberSlot {
  explicit FiberSlot(void (*entry)()) : fiber(entry) {}
  Fiber fiber;
  Thread* thread = nullptr;  // null: idle
};

[[noreturn]] void fail(Site site, const std::string& why) {
  check_failed(site.file, site.line, "emulated card", why.c_str());
}

// The lane whose value `lane` gets; -1: its own.
int source_lane(const Thread& t, int lane) {
  const int first = lane / t.width * t.width, last = first + t.width - 1;
  int source = lane;
  switch (t.kind) {
    case Collective::kShuffle:
      source = first + (t.operand & (t.width - 1));
      break;
    case Collective::kShuffleUp:
      source = lane - t.operand;
      break;
    case Collective::kShuffleDown:
      source = lane + t.operand;
      break;
    case Collective::kShuffleXor:
      source = lane ^ t.operand;
      return source > last ? -1 : source;  // an earlier segment may be read
    default:
      break;
  }
  return source < first || source > last ? -1 : source;
}

class Executor {
 public:
  void run(const Grid& grid, void (*body)(void*), void* context);
  int barrier(Reduction reduction, bool predicate, Site site);
  uint64_t collective(Collective kind, uint32_t mask, uint64_t value, int operand, int width,
                      Site site);
  void sleep(Site site);
  void* dynamic_shared() { return shared_.get(); }
  void* static_shared(const void* key, size_t bytes);

  ExecutorOptions options;

 private:
  static void fiber_main();
  void begin_block();
  void run_threads();
  void wait(Wait what, Site site);
  void go_on(FiberSlot* from);
  FiberSlot* next();
  void end_thread(int rank);
  Open& join_collective(const Thread& t);
  void finish_collective(const Open& open, Thread& last);
  std::string waiting() const;
  void make_ready(int rank) { ready_.push_back(fiber_of_[rank]); }
  template <class Each>
  void in_order(int first, int count, const Each& each);

  std::vector<std::unique_ptr<FiberSlot>> fibers_;
  std::vector<FiberSlot*> idle_;
  Context host_;
  FiberSlot* current_ = nullptr;
  Context* came_from_ = nullptr;
  std::unique_ptr<std::byte[]> shared_;

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
    uint32_t lanes, ended;
    std::vector<Open> open;
  };
  std::vector<Warp> warps_;
  int started_ = 0, ended_ = 0;
  std::deque<FiberSlot*> ready_;
  std::mt19937 random_;
  int arrived_ = 0;  // at the barrier
  Site barrier_site_ = {};
  Reduction reduction_ = Reduction::kNone;
  int votes_ = 0, result_ = 0;
  int64_t polls_ = 0;
  size_t shared_used_ = 0;
  std::vector<std::pair<const void*, void*>> statics_;
};

Executor& executor() {
  thread_local Executor one;
  return one;
}

void Executor::run(const Grid& grid, void (*body)(void*), void* context) {
  HOTSET_CHECK(!is_running_, "a kernel of the emulated card launches a kernel");
  const dim3 &g = grid.grid, &b = grid.block;
  count_ = static_cast<int>(b.x * b.y * b.z);
  HOTSET_CHECK(count_ >= 1 && count_ <= 1024, "a block has 1 to 1024 threads");
  HOTSET_CHECK(g.x >= 1 && g.y >= 1 && g.z >= 1 && g.y <= 65535 && g.z <= 65535,
               "a grid has 1 to 65535 blocks in y and in z, and one at least in x");
  HOTSET_CHECK(grid.shared_bytes <= kSharedBytes, "more shared memory than a block can have");
  is_running_ = true;
  grid_ = grid;
  body_ = body;
  context_ = context;
  if (shared_ == nullptr) shared_ = std::make_unique<std::byte[]>(kSharedBytes);
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
        go_on(nullptr);
        HOTSET_CHECK(ended_ == count_, "the emulated card lost a thread");
      }
    }
  }
  place = before;
  ASAN_UNPOISON_MEMORY_REGION(shared_.get(), kSharedBytes);
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
  started_ = ended_ = arrived_ = votes_ = 0;
  polls_ = 0;
  ASAN_UNPOISON_MEMORY_REGION(shared_.get(), kSharedBytes);
  std::memset(shared_.get(), 0xff, grid_.shared_bytes);
  ASAN_POISON_MEMORY_REGION(shared_.get() + grid_.shared_bytes, kSharedBytes - grid_.shared_bytes);
  shared_used_ = grid_.shared_bytes;
  statics_.clear();
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
    body_(context_);
    current_->thread = nullptr;
    end_thread(rank);
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
  enter_context(*e.came_from_);
  while (true) {
    e.run_threads();
    e.idle_.push_back(e.current_);
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
    fail(stuck->site, "deadlock: every thread waits for another: " + waiting());
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
    return result_;
  }
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
  Open& open = join_collective(self);
  open.arrived |= uint32_t{1} << lane;
  if (open.arrived != mask) {
    wait(Wait::kCollective, site);
    return self.value;
  }
  finish_collective(open, self);
  std::vector<Open>& all = warps_[static_cast<size_t>(self.rank / kWarp)].open;
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
  if (ready_.empty() && started_ == count_) {
    if (options.on_poll) options.on_poll();
    if (++polls_ > options.polls_max) {
      fail(site, fmt::format("spin: {} polls and nothing has changed: {}", polls_, waiting()));
    }
    sched_yield();  // to whoever is waited for
    return;
  }
  ready_.push_back(current_);
  wait(Wait::kSleep, site);
}

void* Executor::static_shared(const void* key, size_t bytes) {
  for (const auto& [known, at] : statics_) {
    if (known == key) return at;
  }
  const size_t begin = (shared_used_ + kSharedGap - 1) / kSharedGap * kSharedGap + kSharedGap;
  HOTSET_CHECK(begin + bytes <= kSharedBytes, "more shared memory than a block can have");
  shared_used_ = begin + bytes;
  void* const at = shared_.get() + begin;
  ASAN_UNPOISON_MEMORY_REGION(at, bytes);
  std::memset(at, 0xff, bytes);
  statics_.emplace_back(key, at);
  return at;
}

// Where the threads of the block wait, places that several share once.
std::string Executor::waiting() const {
  std::map<std::string, int> places;
  for (const Thread& t : threads_) {
    if (t.wait == Wait::kNothing) continue;
    const std::string what = t.wait == Wait::kBarrier ? "a barrier"
                             : t.wait == Wait::kSleep
                                 ? "__nanosleep"
                                 : fmt::format("{} of mask {:#010x}", name_of(t.kind), t.mask);
    ++places[fmt::format("in {} at {}:{}", what, t.site.file, t.site.line)];
  }
  std::string text;
  for (const auto& [where, threads] : places) {
    text += fmt::format("{}{} threads {}", text.empty() ? "" : "; ", threads, where);
  }
  return text;
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
  return executor().dynamic_shared();
}
void* static_shared(const void* key, size_t bytes) {
  return executor().static_shared(key, bytes);
}

}  // namespace hotset::emulated
