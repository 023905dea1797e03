// `hotset bench --kernels`: every CPU kernel on its own, against what the machine gives.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cpu/kernel_table.h"

namespace hotset {

// Checks and times the kernels of a table whose name and type contain `only`, and prints one row
// each; throws Error if one differs from its reference. Method: bench_kernels.cc.
void bench_kernels(const KernelTable& kernels, const std::string& only, int threads,
                   int64_t repetitions, bool json);

}  // namespace hotset
