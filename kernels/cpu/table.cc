// The kernel table of one instruction set.
#include "kernels/cpu/functions.h"

#define HOTSET_TEXT_OF(x) #x
#define HOTSET_TEXT(x) HOTSET_TEXT_OF(x)

namespace hotset::HOTSET_ISA {

extern const KernelTable kTable;
const KernelTable kTable = {
    .name = HOTSET_TEXT(HOTSET_ISA),
    .quantise_activations = quantise_activations,
    .row_dot = row_dot,
    .rms_norm = rms_norm,
    .l2_norm = l2_norm,
    .silu_mul = silu_mul,
    .sigmoid_mul = sigmoid_mul,
    .exp = exp,
    .add = add,
    .add_scaled = add_scaled,
    .softmax = softmax,
    .rope = rope,
    .attention = attention,
    .delta = delta,
    .conv = conv,
    .to_half = to_half,
    .peak_byte_dot = peak_byte_dot,
    .peak_float_fma = peak_float_fma,
};

}  // namespace hotset::HOTSET_ISA
