// All launchers of a CardKernels, once per compiler: namespace hotset::cuda and hotset::emulated.
// card_table.cu fills the table from this list.
#pragma once

#include "kernels/cuda/card_kernels.h"

namespace hotset::HOTSET_ISA {

void norm(CardStream stream, float* y, const float* x, const float* weight, int64_t rows,
          int64_t width, float eps);
void add(CardStream stream, float* x, const float* y, int64_t n);
void copy(CardStream stream, float* to, const float* from, int64_t n);
void swiglu(CardStream stream, float* out, const float* gate, const float* up, int64_t n);
void attend(CardStream stream, const CardAttendArgs& args);
void delta_net(CardStream stream, const CardDeltaArgs& args);
void route(CardStream stream, int32_t* experts, float* weights, const float* logits, int64_t rows,
           int64_t width, int64_t k, bool normalise);
void weigh(CardStream stream, float* weights, const int32_t* experts, const float* logits,
           int64_t rows, int64_t width, int64_t k);
void argmax(CardStream stream, int32_t* ids, const float* logits, const uint8_t* allowed,
            int64_t rows, int64_t width, uint64_t* scratch);

void quantise(CardStream stream, const CardQuantiseArgs& args);
void row_dot(CardStream stream, const RowDotArgs& args);
void apply_deltas(CardStream stream, uint32_t* table, int64_t experts,
                  const CardResidencyDelta* deltas, const uint32_t* count, uint32_t* named);
void post(CardStream stream, const CardPostArgs& args);
void experts(CardStream stream, const CardExpertsArgs& args);
void combine(CardStream stream, const CardCombineArgs& args);

}  // namespace hotset::HOTSET_ISA
