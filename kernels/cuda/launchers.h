// All launchers of a CardKernels, once per compiler: namespace hotset::cuda and hotset::emulated.
// card_table.cu fills the table from this list.
#pragma once

#include "kernels/cuda/card_kernels.h"

namespace hotset::HOTSET_ISA {

void quantise(CardStream stream, const CardQuantiseArgs& args);
void row_dot(CardStream stream, const RowDotArgs& args);
void apply_deltas(CardStream stream, uint32_t* table, int64_t experts,
                  const CardResidencyDelta* deltas, const uint32_t* count);
void post(CardStream stream, const CardPostArgs& args);
void experts(CardStream stream, const CardExpertsArgs& args);
void combine(CardStream stream, const CardCombineArgs& args);

}  // namespace hotset::HOTSET_ISA
