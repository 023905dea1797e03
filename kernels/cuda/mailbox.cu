#include "kernels/cuda/launchers.h"
#include "kernels/cuda/mailbox.cuh"

namespace hotset::HOTSET_ISA {
namespace {

constexpr unsigned kThreads = 256;

}  // namespace

void apply_deltas(CardStream stream, uint32_t* table, int64_t experts,
                  const CardResidencyDelta* deltas, const uint32_t* count, uint32_t* named) {
  launch(apply_deltas_kernel, dim3(1), dim3(kThreads), 0, stream, table, experts, deltas, count,
         named);
}

void post(CardStream stream, const CardPostArgs& args) {
  launch(post_kernel, dim3(1), dim3(kThreads), 0, stream, args);
}

void combine(CardStream stream, const CardCombineArgs& args) {
  if (args.rows == 0) return;
  launch(combine_kernel, dim3(static_cast<unsigned>(args.rows)), dim3(kThreads), 0, stream, args);
}

}  // namespace hotset::HOTSET_ISA
