#include "kernels/cuda/launchers.h"
#include "kernels/cuda/quantise.cuh"

namespace hotset::HOTSET_ISA {

void launch_quantise(CardStream stream, const QuantiseTask& task) {
  constexpr int64_t kUnits = 16;  // a block of threads
  const int64_t units = (task.k + 31) / 32;
  const int64_t blocks = (task.rows * units + kUnits - 1) / kUnits;
  if (blocks == 0) return;
  launch(quantise_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kUnits * 8), 0, stream, task,
         units);
}

void quantise(CardStream stream, const CardQuantiseArgs& args) {
  QuantiseTask task;
  task.x = args.x;
  task.x_stride = args.x_stride;
  task.rows = args.rows;
  task.k = args.k;
  task.out = args.out;
  task.out_x = args.out_x;
  task.not_finite = args.not_finite;
  task.order = args.order;
  launch_quantise(stream, task);
}

}  // namespace hotset::HOTSET_ISA
