// Launchers of the card's dense kernels.
#include <cmath>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/delta_net.cuh"
#include "kernels/cuda/dense_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/router.cuh"

namespace hotset::HOTSET_ISA {

namespace {

dim3 grid(int64_t x, int64_t y = 1, int64_t z = 1) {
  return {static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)};
}

size_t floats(int64_t count) {
  return static_cast<size_t>(count) * sizeof(float);
}

// 1 / sqrt(n), as the CPU's device has it.
float inverse_root(int64_t n) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
}

template <class Elements>
void attend_with(CardStream stream, const CardAttendArgs& a) {
  const int64_t rows = a.step.rows, group = a.heads / a.kv_heads;
  const int64_t bundles = a.kv_heads * ((group + kBundle - 1) / kBundle);
  const size_t shared = floats(kBundle * (a.dim + kKvBlockPositions));
  launch(rotate_kernel<Elements>, grid(rows, a.heads + a.kv_heads), grid(kWarp), floats(a.dim),
         stream, a, inverse_root(a.dim));
  if (a.context_blocks == 0) {
    launch(attend_row_kernel<Elements>, grid(rows, bundles), grid(kAttendThreads), shared, stream,
           a);
    return;
  }
  launch(attend_block_kernel<Elements>, grid(rows, bundles, a.context_blocks), grid(kAttendThreads),
         shared, stream, a);
  launch(merge_kernel, grid(rows, a.heads), grid(kMergeThreads), 0, stream, a);
}

}  // namespace

void norm(CardStream stream, float* y, const float* x, const float* weight, int64_t rows,
          int64_t width, float eps) {
  launch(norm_kernel, grid(rows), grid(kRowThreads), 0, stream, y, x, weight, width, eps);
}

void add(CardStream stream, float* x, const float* y, int64_t n) {
  launch(add_kernel, grid(blocks_for(n, kRowThreads)), grid(kRowThreads), 0, stream, x, y, n);
}

void copy(CardStream stream, float* to, const float* from, int64_t n) {
  launch(copy_kernel, grid(blocks_for(n, kRowThreads)), grid(kRowThreads), 0, stream, to, from, n);
}

void swiglu(CardStream stream, float* out, const float* gate, const float* up, int64_t n) {
  launch(swiglu_kernel, grid(blocks_for(n, kRowThreads)), grid(kRowThreads), 0, stream, out, gate,
         up, n);
}

void attend(CardStream stream, const CardAttendArgs& args) {
  if (args.kv_f16) {
    attend_with<HalfElements>(stream, args);
  } else {
    attend_with<FloatElements>(stream, args);
  }
}

void delta_net(CardStream stream, const CardDeltaArgs& a) {
  const int64_t rows = a.step.rows, runs = a.step.run_count;
  launch(conv_kernel, grid((a.channels() + kConvThreads - 1) / kConvThreads, runs),
         grid(kConvThreads), 0, stream, a);
  launch(key_norm_kernel, grid(rows, a.key_heads, 2), grid(kWarp), 0, stream, a,
         inverse_root(a.dk));
  launch(gates_kernel, grid(blocks_for(rows * a.value_heads, kGateThreads)), grid(kGateThreads), 0,
         stream, a);
  if (rows == runs) {
    launch(delta_step_kernel, grid(runs, a.value_heads, (a.dv + kStepColumns - 1) / kStepColumns),
           grid(kStepColumns), floats(a.dk * (kStepColumns + 2)), stream, a);
  } else {
    const int64_t tasks = runs * a.value_heads;
    launch(delta_chunks_kernel, grid(tasks < kCardDeltaBlocks ? tasks : kCardDeltaBlocks),
           grid(kChunkThreads), 0, stream, a);
  }
  launch(gated_norm_kernel, grid(rows, a.value_heads), grid(kWarp), 0, stream, a);
}

void route(CardStream stream, int32_t* experts, float* weights, const float* logits, int64_t rows,
           int64_t width, int64_t k, bool normalise) {
  const size_t shared = static_cast<size_t>(width) * sizeof(uint64_t) + floats(width + k);
  launch(route_kernel, grid(rows), grid(kRouterThreads), shared, stream, experts, weights, logits,
         width, k, normalise ? 1 : 0);
}

void weigh(CardStream stream, float* weights, const int32_t* experts, const float* logits,
           int64_t rows, int64_t width, int64_t k) {
  launch(weigh_kernel, grid(rows), grid(kWarp), floats(2 * k), stream, weights, experts, logits,
         width, k);
}

void argmax(CardStream stream, int32_t* ids, const float* logits, const uint8_t* allowed,
            int64_t rows, int64_t width, uint64_t* scratch) {
  constexpr int64_t kPart = 8 * kRouterThreads;  // logits that a block is worth
  const int64_t wanted = (width + kPart - 1) / kPart;
  const int64_t parts = wanted < kCardArgmaxParts ? wanted : kCardArgmaxParts;
  launch(argmax_parts_kernel, grid(rows, parts), grid(kRouterThreads), 0, stream, scratch, logits,
         allowed, width);
  launch(argmax_kernel, grid(rows), grid(kWarp), 0, stream, ids, scratch, parts);
}

}  // namespace hotset::HOTSET_ISA
