// The CPU kernels as `hotset bench --kernels` runs them: random operands in the shapes of
// Qwen3-Next-80B, and the same result in double precision.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/thread_pool.h"

namespace hotset {

enum class Bound {
  kMemory,    // operands stream from DRAM: GB/s against the read bandwidth
  kByteDots,  // GMAC/s against a register-only loop of the byte dot
  kFloatFma,  // GMAC/s against a register-only loop of the float multiply-add
  kCache,     // operands in the L1 cache: GB/s read and written, without a peak
};

// Owns its operands (through the functions), so only one need exist at a time.
struct KernelCase {
  Bound bound = Bound::kMemory;
  double work = 0;                      // bytes, or multiply-adds, of one run
  std::span<const std::byte> streamed;  // kMemory: what a run reads
  std::function<void(ThreadPool&)> run;
  // The largest difference from the double-precision reference over the same (already quantised)
  // operands, relative to the sum of the magnitudes that were added: single precision gives 1e-7
  // and less a term, a wrong kernel 1e-2 and more. Runs the kernel.
  std::function<double()> error;
};

struct NamedCase {
  std::string kernel, type;
  std::function<KernelCase()> make;
};
// Every kernel and type of operand.
std::vector<NamedCase> kernel_cases(const KernelTable& kernels);

}  // namespace hotset
