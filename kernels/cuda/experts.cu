// Experts in slots as launches of the two kernels for rows: each pair on its expert's slot.
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tasks.h"

namespace hotset::HOTSET_ISA {
namespace {

int64_t pairs_of(const CardExpertsArgs& args) {
  return args.list != nullptr ? args.listed : args.rows * args.k;
}

// Gate or up of every pair, into `out` [pairs][2 * inner].
void gate_or_up(CardStream stream, const CardExpertsArgs& args, const Slots& slots,
                const PackedShape& shape, int64_t matrix_at, float* out) {
  RowDotTask dot;
  dot.slots = slots;
  dot.check = args.check;
  dot.matrix_at = matrix_at;
  dot.args.matrix.shape = shape;
  dot.args.group_end = shape.groups();
  dot.args.tokens = pairs_of(args);
  dot.args.out = out;
  dot.args.out_stride = 2 * args.shape.gate.n;
  dot.args.quantised = args.q;
  dot.args.x = args.x;
  dot.args.x_stride = shape.k;
  dot.x_is_by_pair = false;
  if (shape.format.has_order) {
    QuantiseTask order;
    order.x = args.x;
    order.x_stride = order.k = shape.k;
    order.rows = pairs_of(args);
    order.out = args.ordered_q;
    order.out_x = args.ordered_x;
    order.not_finite = args.not_finite;
    order.order_at = matrix_at + shape.order;
    order.slots = slots;
    order.x_is_by_pair = false;
    launch_quantise(stream, order);
    dot.args.quantised = args.ordered_q;
    dot.args.x = args.ordered_x;
    dot.x_is_by_pair = true;
  }
  launch_row_dot(stream, dot);
}

}  // namespace

void experts(CardStream stream, const CardExpertsArgs& args) {
  const ExpertShape& shape = args.shape;
  const int64_t inner = shape.gate.n;
  const Slots slots = {args.list, args.places, args.k, args.slots, args.slot_bytes};
  gate_or_up(stream, args, slots, shape.gate, shape.gate_at, args.gate_up);
  gate_or_up(stream, args, slots, shape.up, shape.up_at, args.gate_up + inner);

  QuantiseTask hidden;
  hidden.x = args.gate_up;
  hidden.up = args.gate_up + inner;
  hidden.x_stride = 2 * inner;
  hidden.rows = pairs_of(args);
  hidden.k = inner;
  hidden.out = args.inner_q;
  hidden.out_x = args.inner_x;
  hidden.not_finite = args.not_finite;
  hidden.slots = slots;
  if (shape.down.format.has_order) hidden.order_at = shape.down_at + shape.down.order;
  launch_quantise(stream, hidden);

  RowDotTask down;
  down.slots = slots;
  down.check = args.check;
  down.matrix_at = shape.down_at;
  down.args.matrix.shape = shape.down;
  down.args.group_end = shape.down.groups();
  down.args.tokens = pairs_of(args);
  down.args.quantised = args.inner_q;
  down.args.x = args.inner_x;
  down.args.x_stride = inner;
  down.args.out = args.out;
  down.args.out_stride = shape.down.n;
  launch_row_dot(stream, down);
}

}  // namespace hotset::HOTSET_ISA
