// The table of one compiler's kernels.
#include "kernels/cuda/card.cuh"
#include "kernels/cuda/launchers.h"

#define HOTSET_TEXT_OF(x) #x
#define HOTSET_TEXT(x) HOTSET_TEXT_OF(x)

namespace hotset::HOTSET_ISA {

extern const CardKernels kCardKernels;
const CardKernels kCardKernels = {
    .name = HOTSET_TEXT(HOTSET_ISA),
    .checks_slots = kChecksSlots,
    .norm = norm,
    .add = add,
    .copy = copy,
    .swiglu = swiglu,
    .attend = attend,
    .delta_net = delta_net,
    .route = route,
    .weigh = weigh,
    .argmax = argmax,
    .quantise = quantise,
    .row_dot = row_dot,
    .apply_deltas = apply_deltas,
    .post = post,
    .experts = experts,
    .combine = combine,
};

}  // namespace hotset::HOTSET_ISA
