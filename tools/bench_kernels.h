// `hotset bench --kernels`: every CPU kernel on its own, against what the machine gives.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace hotset {

// Checks and times all kernels of a table and prints one row each; throws Error if one differs from
// its reference. Method: bench_kernels.cc.
void bench_kernels(const KernelTable& kernels, int threads, int64_t repetitions, bool json);

}  // namespace hotset
