// Runs grids of the card's kernels on the host, so that they are tested without a card: a thread of
// a block is a fiber, which runs until it waits at a barrier or a warp's collective, or ends. A
// block's threads run in the chosen order and, where they wait, interleaved; blocks run one after
// another. Stricter than hardware: a barrier that not every thread of the block reaches at the same
// place of the source, a lane that is missing, shared memory that nobody wrote (it holds NaN) are
// bugs, and abort with file and line. Says nothing of speed, of the order in which a card's memory
// changes become visible, or of what nvcc makes of the source.
//
// Each thread of the host has fibers and options of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "kernels/cuda/card_stream.h"

namespace hotset::emulated {

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3() = default;
  constexpr dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Which thread of a block goes first, both at its start and when several may go on. No result may
// depend on it.
enum class ThreadOrder { kForward, kReverse, kRandom };

struct ExecutorOptions {
  ThreadOrder order = ThreadOrder::kForward;
  uint32_t seed = 1;
  // __nanosleep in a row, with no other thread of the block able to run, until it is a bug.
  int64_t polls_max = int64_t{1} << 30;
  std::function<void()> on_poll = {};  // called at each of them: plays the host's part
  // To ThreadSanitizer blocks are else ordered, since they run one after another. Without that
  // order it sees a race between blocks, too, and takes shared memory, which is theirs in turn, for
  // one: for kernels without any, and small grids, since each of their threads is one of its.
  bool are_blocks_unordered = false;
};

// Options of the grids that this thread of the host runs during the object's life.
class ExecutorScope {
 public:
  explicit ExecutorScope(ExecutorOptions options);
  ~ExecutorScope();
  ExecutorScope(const ExecutorScope&) = delete;
  ExecutorScope& operator=(const ExecutorScope&) = delete;

 private:
  ExecutorOptions before_;
};

// A place in a kernel's source.
struct Site {
  const char* file;
  int line;
};

// What a thread of the card can ask for; card.cuh has the names that kernels use.
enum class Collective { kSync, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kBallot };
enum class Reduction { kNone, kAnd, kOr, kCount };
// Waits for all threads of the block; reduces their predicates.
int block_barrier(Reduction reduction, bool predicate, Site site);
// Waits for the lanes of `mask`; `operand` is a lane or a distance within `width` lanes.
uint64_t warp_collective(Collective kind, uint32_t mask, uint64_t value, int operand, int width,
                         Site site);
void sleep_on_card(Site site);
void* dynamic_shared();
// `bytes` of shared memory that go by the name `key`, the same for all threads of the block.
void* static_shared(const void* key, size_t bytes);

// Where the running thread is.
struct Place {
  dim3 thread, block, block_size, grid_size;
};
inline constinit thread_local Place place;

struct Grid {
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
};
void run_grid(const Grid& grid, void (*body)(void*), void* context);

// Runs `work` in the stream's order; at once where the stream is none.
void enqueue(CardStream stream, std::function<void()> work);

}  // namespace hotset::emulated
