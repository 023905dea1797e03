#include "runtime/host/packed_rows.h"

#include <algorithm>

#include "kernels/check.h"
#include "runtime/host/workspace.h"

namespace hotset {

Activations Workspace::activations(int64_t count, int64_t width) {
  const int64_t units = (width + 31) / 32;
  Activations a;
  a.x = rows(count, width);
  a.q.units = units;
  a.q.q = reinterpret_cast<int8_t*>(take(count * units * 32));
  a.q.scale = reinterpret_cast<float*>(take(count * units * 4));
  a.q.half_sum = reinterpret_cast<int16_t*>(take(count * units * 4));
  return a;
}

void throw_not_finite() {
  throw Error(
      "the step failed: an activation is not finite. The model's weights may be damaged: check "
      "the file with `hotset inspect --verify`");
}

void quantise_row(const KernelTable& kernels, const float* x, int64_t width, const QuantisedRows& q,
                  int64_t r) {
  if (!kernels.quantise_activations(x, width, q, r)) throw_not_finite();
}

void reorder_row(const KernelTable& kernels, const float* from, const uint32_t* order,
                 const Activations& to, int64_t r) {
  float* x = to.x.row(r);
  for (int64_t j = 0; j < to.x.width; ++j) x[j] = from[order[j]];
  quantise_row(kernels, x, to.x.width, to.q, r);
}

// An eighth of a thread's share evens out the threads, and each task gathers its tokens' inputs
// anew (a prompt of 512 tokens: 2 % faster than with a sixteenth). Less than 64 KB is not worth
// taking from the counter, and a kernel's prefetching ends with its task. Whole fours: AVX-512
// takes two sets of two groups at once.
int64_t groups_per_task(const PackedShape& shape, int64_t bytes_in_all, int threads) {
  constexpr int64_t kLeastBytes = 64 << 10, kTogether = 4;
  const int64_t bytes = std::max(kLeastBytes, bytes_in_all / (8 * threads));
  const int64_t group_bytes = std::max<int64_t>(1, shape.bytes / shape.groups());
  return std::max(kTogether, bytes / group_bytes / kTogether * kTogether);
}

}  // namespace hotset
