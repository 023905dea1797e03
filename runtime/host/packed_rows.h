// What the host's operations on packed matrices share.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "runtime/device.h"

namespace hotset {

// Quantises x into row r of q. Throws Error, which ends the step, if an activation is not finite.
void quantise_row(const KernelTable& kernels, const float* x, int64_t width, const QuantisedRows& q,
                  int64_t r);
// Gathers `from` into row r of `to`, input order[j] as input j, and quantises it.
void reorder_row(const KernelTable& kernels, const float* from, const uint32_t* order,
                 const Activations& to, int64_t r);
[[noreturn]] void throw_not_finite();

// Row groups of a task of row_dot where a job reads `bytes_in_all` on so many threads.
int64_t groups_per_task(const PackedShape& shape, int64_t bytes_in_all, int threads);

}  // namespace hotset
