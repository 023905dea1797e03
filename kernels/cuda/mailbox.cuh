// Residency on the card and the misses' way to the host and back. Who writes first, who may then
// read:
//  - The residency table: apply_deltas writes it at a step's head; later kernels of the stream read
//    it. Nobody else has it.
//  - Request: all threads of the one posting block write the payload; the barrier orders their
//    writes before thread 0's release of the flag, and a release is cumulative: who acquires the
//    number sees the payload.
//  - Reply: thread 0 of a combining block acquires the flag that the host has released after all
//    outputs; the barrier hands that on to the block's other threads. They read the outputs with
//    ordinary loads: the read-only path (__ldg) is outside the memory model and may return what an
//    earlier layer left.
//  - Reuse: a request is overwritten by a later layer's post, which follows this layer's combine in
//    the stream, which has acquired the host's reply, which the host releases after its last read
//    of the request. A reply is overwritten after the host has acquired a later request, which was
//    posted after this layer's combine.
#pragma once

#include "kernels/cuda/card_kernels.h"
#include "kernels/cuda/card_sync.cuh"
#include "kernels/simd/float_math.h"

namespace hotset::HOTSET_ISA {

HOTSET_DEVICE uint32_t number_of(const CardSequence& s) {
  return *s.step * static_cast<uint32_t>(s.layers) + static_cast<uint32_t>(s.layer) + 1;
}

// One block. Bytes: 20 a delta.
HOTSET_KERNEL apply_deltas_kernel(uint32_t* table, int64_t experts,
                                  const CardResidencyDelta* deltas, const uint32_t* count,
                                  uint32_t* named) {
  for (uint32_t i = threadIdx.x; i < *count; i += blockDim.x) {
    table[deltas[i].layer * experts + deltas[i].expert] = deltas[i].slot;
    if constexpr (kChecksSlots) {
      if (named != nullptr) named[deltas[i].slot_index] = deltas[i].generation;
    }
  }
}

// Looks up the pair's expert; says whether it is a miss.
HOTSET_DEVICE bool look_up_pair(const CardPostArgs& a, int64_t p) {
  const int32_t expert = a.picks[p];
  const uint32_t slot = a.table[expert];
  const bool is_miss = slot == kCardAbsent;
  a.places[p] = is_miss ? -1 : static_cast<int32_t>(slot);
  a.mailbox.picks[p] = is_miss ? expert : -1;
  if (a.picks_log != nullptr) a.picks_log[p] = expert;
  return is_miss;
}

template <class T>
HOTSET_DEVICE void copy_row(T* to, const T* from, int64_t count) {
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}

// The inputs of rows that have a miss.
HOTSET_DEVICE void write_request(const CardPostArgs& a) {
  const int64_t units = a.q.units;
  for (int64_t row = 0; row < a.rows; ++row) {
    bool has_miss = false;
    for (int64_t i = row * a.k; i < (row + 1) * a.k; ++i) has_miss |= a.places[i] < 0;
    if (!has_miss) continue;
    const int64_t at = row * units;
    copy_row(reinterpret_cast<uint32_t*>(a.mailbox.q.q + at * 32),
             reinterpret_cast<const uint32_t*>(a.q.q + at * 32), units * 8);
    copy_row(a.mailbox.q.scale + at, a.q.scale + at, units);
    copy_row(a.mailbox.q.half_sum + at * 2, a.q.half_sum + at * 2, units * 2);
    if (a.mailbox.x != nullptr) {
      copy_row(a.mailbox.x + row * a.width, a.x + row * a.width, a.width);
    }
  }
}

// One block. Bytes: 8 a pair, and what the rows with misses hold: 1.25 (with floats 5.25) an input.
HOTSET_KERNEL post_kernel(CardPostArgs a) {
  const int64_t pairs = a.rows * a.k;
  uint32_t misses = 0;
  for (int64_t first = 0; first < pairs; first += blockDim.x) {
    const int64_t p = first + threadIdx.x;
    const bool is_miss = p < pairs && look_up_pair(a, p);
    misses += static_cast<uint32_t>(__syncthreads_count(is_miss));
  }
  if (threadIdx.x == 0) *a.misses = misses;
  if (misses == 0) return;  // the host is not told: it does not expect every number
  write_request(a);
  if (threadIdx.x == 0) *a.mailbox.layer = static_cast<int32_t>(a.sequence.layer);
  __syncthreads();
  if (threadIdx.x == 0) store_release(a.mailbox.request_flag, number_of(a.sequence));
}

// Until the reply is there, for wait_ns at most.
HOTSET_DEVICE void await_reply(const CardCombineArgs& a) {
  const uint32_t number = number_of(a.sequence);
  const int64_t begun = card_nanoseconds();
  unsigned sleep_ns = 32;
  while (static_cast<int32_t>(load_acquire(a.mailbox.reply_flag) - number) < 0) {
    if (card_nanoseconds() - begun > a.wait_ns) {
      a.errors->expired_sequence = number;
      return;
    }
    __nanosleep(sleep_ns);
    if (sleep_ns < 256) sleep_ns *= 2;
  }
}

// A block a row. Bytes: 4 (k + 3) an input, those of misses over the link.
HOTSET_KERNEL combine_kernel(CardCombineArgs a) {
  if (*a.misses != 0) {
    if (threadIdx.x == 0) await_reply(a);
    __syncthreads();
  }
  const int64_t row = blockIdx.x;
  float* const x = a.x + row * a.width;
  float share = 0.0f;
  if (a.shared != nullptr) share = sigmoid_lanes(a.shared_gate[row]);
  for (int64_t j = threadIdx.x; j < a.width; j += blockDim.x) {
    float y = 0.0f;
    for (int64_t p = row * a.k; p < (row + 1) * a.k; ++p) {
      const float* const outputs = a.places[p] < 0 ? a.mailbox.outputs : a.outputs;
      y = fma(a.weights[p], outputs[p * a.width + j], y);
    }
    if (a.shared != nullptr) y = fma(share, a.shared[row * a.width + j], y);
    x[j] = add(x[j], y);
  }
}

}  // namespace hotset::HOTSET_ISA
