// The card's kernels as a table of launchers, as KernelTable is for the CPU: the same sources
// compiled by nvcc (cuda_kernels) and as C++ over the executor (emulated_kernels). A launcher puts
// its kernels on the stream and returns; its arguments are copied. Every pointer is into the card's
// memory unless it says otherwise; matrices and quantised rows are the host's types, viewing that
// memory. Every result has the bits of the CPU's (docs/numerics.md).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cuda/card_stream.h"
#include "kernels/simd/device_function.h"

namespace hotset {

// Consecutive rows of one sequence at consecutive positions. Lies in the card's memory, as does all
// that changes from token to token: one captured graph then serves them all.
struct CardRun {
  int32_t first_row = 0, rows = 0;
  int32_t position = 0;  // of the first row
  int32_t sequence = 0;  // selects the recurrent state and the line of kv_blocks
};

// The rows of a step, or of a mixer's tile of it. The counts are the launch's (a graph's shape),
// what the pointers point at is the step's.
struct CardStep {
  const CardRun* runs = nullptr;  // [run_count], first_row rising
  int64_t run_count = 0, rows = 0;
  // [sequences][blocks_each]: where each KV block lies. In a block: [layers][2: keys, values]
  // [kv_heads][256][dim], f16 or f32.
  std::byte* const* kv_blocks = nullptr;
  int64_t blocks_each = 0;
};

// Full attention of one layer: norms, rotates and scales q, norms and rotates k, stores k and v,
// attends, applies the output gate.
struct CardAttendArgs {
  CardStep step;
  int64_t layer = 0;                                   // among the attention layers
  int64_t heads = 0, kv_heads = 0, dim = 0, half = 0;  // half: rotated pairs
  bool gated = false, kv_f16 = true;
  float eps = 0.0f;
  const float *q_norm = nullptr, *k_norm = nullptr;  // [dim]
  const float *cos = nullptr, *sin = nullptr;        // [positions][half]
  const float* q = nullptr;  // [rows][heads][dim], gated: [rows][heads][2: q, gate][dim]
  const float *k = nullptr, *v = nullptr;  // [rows][kv_heads][dim]
  float* rotated = nullptr;                // [rows][heads][dim]: workspace
  float* out = nullptr;                    // [rows][heads][dim]
  // KV blocks a sequence may have while this launch is used: each goes to a block of threads of its
  // own, in workspace of card_attend_scratch_floats. 0: one block of threads goes through all,
  // which needs no workspace, for prompts.
  int64_t context_blocks = 0;
  float* scratch = nullptr;
};
inline constexpr int64_t card_attend_scratch_floats(int64_t rows, int64_t heads, int64_t dim,
                                                    int64_t context_blocks) {
  return rows * heads * context_blocks * (dim + 2);
}

// Gated delta net of one layer from the projected q|k|v, z and b|a: convolution, norms, gates,
// recurrence (or chunks), gated norm.
struct CardDeltaArgs {
  CardStep step;
  int64_t key_heads = 0, value_heads = 0, dk = 0, dv = 0, width = 0;  // width: of the convolution
  float eps = 0.0f;
  const float* conv_weight = nullptr;  // [width][channels], oldest input first
  const float *dt_bias = nullptr, *a = nullptr, *norm = nullptr;  // [value_heads] twice, [dv]
  const float* qkv = nullptr;                                     // [rows][channels]
  const float *z = nullptr, *ba = nullptr;  // [rows][value_heads * dv], [rows][2 * value_heads]
  // Of this layer and sequence 0: [value_heads][dk][dv], and [width - 1][channels], oldest first.
  float *state = nullptr, *conv_state = nullptr;
  int64_t sequence_stride = 0;  // floats from one sequence's state to the next one's, both
  float* convolved = nullptr;   // [rows][channels]: workspace
  float* gates = nullptr;       // [rows][2 * value_heads]: workspace, log decay | beta
  float* raw = nullptr;         // [rows][value_heads * dv]: workspace
  float* out = nullptr;         // [rows][value_heads * dv]
  // Null where every run has one row; else card_delta_scratch_floats.
  float* scratch = nullptr;

  HOTSET_HOST_DEVICE int64_t channels() const { return 2 * key_heads * dk + value_heads * dv; }
};
inline constexpr int64_t kCardDeltaBlocks = 64;  // of threads, that go through a prompt's heads
HOTSET_HOST_DEVICE inline constexpr int64_t card_delta_scratch_floats_of_block(int64_t dk,
                                                                               int64_t dv) {
  return kDeltaChunk * (3 * kDeltaChunk + dk + dv);
}
inline constexpr int64_t card_delta_scratch_floats(int64_t dk, int64_t dv) {
  return kCardDeltaBlocks * card_delta_scratch_floats_of_block(dk, dv);
}

// Rows quantised per 32 inputs (docs/numerics.md).
struct CardQuantiseArgs {
  const float* x = nullptr;  // row r at x + r * x_stride
  int64_t x_stride = 0, rows = 0, k = 0;
  const uint32_t* order = nullptr;  // [k]: input j is x[order[j]] (PackedMatrix::order); or null
  QuantisedRows out;
  float* out_x = nullptr;  // [rows][k]: the inputs in their order, for float matrices; or null
  uint32_t* not_finite = nullptr;  // becomes 1 if an input is not finite
};

// What the card says went wrong in a step; the host clears it before and looks at it after.
struct CardErrors {
  uint32_t not_finite = 0;        // an activation
  uint32_t expired_sequence = 0;  // a reply that did not come in time, by its number; 0: none
  // A slot that an expert's kernel read and that did not hold what the table names: its index in
  // CardSlotCheck's arrays, plus 1, and the two generations. Of several, words of any. 0: none.
  uint32_t wrong_slot = 0, held = 0, named = 0;
};

// Residency on the card: for each layer and expert the slot, or kCardAbsent. Only apply_deltas
// writes it, at a step's head, so every kernel of a step sees the same.
inline constexpr uint32_t kCardAbsent = 0xffffffffu;
struct CardResidencyDelta {
  int32_t layer = 0, expert = 0;
  uint32_t slot = kCardAbsent;
  // For CardSlotCheck: which slot it is about, and its generation from here on, 0: nobody's.
  int32_t slot_index = 0;
  uint32_t generation = 0;
};

// Whether a slot holds what the table names. Every copy into a slot begins a generation, a number
// that no other copy has. `named` is written together with the table, `held` by the copies: before
// an expert's bytes kCardBeingWritten, after them the generation. So a kernel that reads a slot
// whose bytes are not there yet, or not any more, sees two that differ, and says so in `errors`.
// Only kernels with CardKernels::checks_slots look. Arrays of all slots; a layer's begin at
// `first`.
struct CardSlotCheck {
  const uint32_t* named = nullptr;
  const uint32_t* held = nullptr;
  int64_t first = 0;
  CardErrors* errors = nullptr;  // null: nothing is checked
};
inline constexpr uint32_t kCardBeingWritten = 0xffffffffu;

// Misses to the host and their outputs back, in pinned memory. Pair p is (row, rank), row * k +
// rank. The card writes the request and then its flag (release), the host reads the flag (acquire)
// and then the request; the reply goes the same way back. A flag holds the sequence number of the
// layer that wrote it last; they only grow, compared by signed difference.
struct CardMailbox {
  uint32_t* request_flag = nullptr;
  int32_t* layer = nullptr;
  int32_t* picks = nullptr;  // [rows][k]: the expert of a miss, -1 of a hit
  QuantisedRows q;           // of the rows that have a miss, row r at row r
  float* x = nullptr;        // [rows][width] likewise; null: the layer's experts need no floats
  uint32_t* reply_flag = nullptr;
  float* outputs = nullptr;  // [pairs][width], of the misses
};

// Which mailbox number a layer of the step has: *step * layers + layer + 1.
struct CardSequence {
  const uint32_t* step = nullptr;  // in the card's memory: a captured graph serves all steps
  int64_t layers = 0, layer = 0;
};

// Looks the picks of a layer up, and posts the misses if there are any. One block of threads.
struct CardPostArgs {
  const int32_t* picks = nullptr;   // [rows][k]
  const uint32_t* table = nullptr;  // [experts] of the layer
  int64_t rows = 0, k = 0, width = 0;
  const float* x = nullptr;      // [rows][width]: the experts' inputs, as floats
  QuantisedRows q;               // and quantised
  int32_t* places = nullptr;     // [rows][k], written: slot of a hit, -1 of a miss
  uint32_t* misses = nullptr;    // written: how many
  int32_t* picks_log = nullptr;  // [rows][k], written: the picks again, for the host; or null
  CardMailbox mailbox;
  CardSequence sequence;
};

// A pair and its expert's slot, of a list that is sorted by expert, so that a block of threads
// reads an expert's weights once for a tile of pairs. Every expert's entries begin at a whole tile;
// what is left of its last tile names nobody.
inline constexpr int64_t kCardTile = 4;
struct CardListedPair {
  int32_t pair = -1, place = -1;
};

// Experts of a layer in slots: gate and up, SwiGLU, down, on each pair's row. Of the pairs either
// those in `list`, or all but those whose place is -1.
struct CardExpertsArgs {
  ExpertShape shape;
  const std::byte* slots = nullptr;  // slot s at slots + s * slot_bytes
  int64_t slot_bytes = 0;
  const CardListedPair* list = nullptr;  // [listed], whole tiles; or null
  int64_t listed = 0;
  const int32_t* places = nullptr;  // [rows][k]
  int64_t rows = 0, k = 0;
  const float* x = nullptr;  // [rows][hidden]
  QuantisedRows q;
  // Workspace by pair: gate | up [pairs][2 * inner]; SwiGLU's result, quantised, and as floats
  // [pairs][inner] where down is a float matrix; inputs in the order of gate or up, where one has
  // an order: quantised, and as floats [pairs][hidden] where that matrix is a float one.
  float* gate_up = nullptr;
  QuantisedRows inner_q;
  float* inner_x = nullptr;
  QuantisedRows ordered_q;
  float* ordered_x = nullptr;
  float* out = nullptr;            // [pairs][hidden]
  uint32_t* not_finite = nullptr;  // as in CardQuantiseArgs
  CardSlotCheck check;
};

// x += sum over ranks, heaviest first, of weight * output, then sigmoid(shared_gate) * shared.
// Waits for the mailbox's reply if there were misses: one thread polls, for wait_ns at most.
struct CardCombineArgs {
  float* x = nullptr;  // [rows][width]
  int64_t rows = 0, width = 0, k = 0;
  const float* weights = nullptr;      // [rows][k]
  const int32_t* places = nullptr;     // [rows][k]
  const float* outputs = nullptr;      // [pairs][width], of the hits
  const float* shared = nullptr;       // [rows][width], or null
  const float* shared_gate = nullptr;  // [rows]
  const uint32_t* misses = nullptr;
  CardMailbox mailbox;
  CardSequence sequence;
  int64_t wait_ns = 0;
  CardErrors* errors = nullptr;
};

struct CardKernels {
  const char* name;   // cuda, emulated
  bool checks_slots;  // CardSlotCheck: the emulated card, and debug builds for a real one

  // Dense parts: rows are [rows][width], row-major.
  // y[r] = RMSNorm(x[r]) * weight; y may be x.
  void (*norm)(CardStream, float* y, const float* x, const float* weight, int64_t rows,
               int64_t width, float eps);
  void (*add)(CardStream, float* x, const float* y, int64_t n);  // x += y
  void (*copy)(CardStream, float* to, const float* from, int64_t n);
  // out = SiLU(gate) * up; out may be gate.
  void (*swiglu)(CardStream, float* out, const float* gate, const float* up, int64_t n);
  void (*attend)(CardStream, const CardAttendArgs&);
  void (*delta_net)(CardStream, const CardDeltaArgs&);
  // Of each row's `width` logits: the k best, heaviest first, the lower index wins a tie; their
  // softmax over all logits, divided by their sum if `normalise`. k <= width <= 4096.
  void (*route)(CardStream, int32_t* experts, float* weights, const float* logits, int64_t rows,
                int64_t width, int64_t k, bool normalise);
  // The weights of given picks: the softmax of their logits.
  void (*weigh)(CardStream, float* weights, const int32_t* experts, const float* logits,
                int64_t rows, int64_t width, int64_t k);
  // ids[r] = index of the largest of row r's logits that is allowed ([width] of 0 or 1; null: all
  // are), the lowest of equal ones. `scratch`: rows * kCardArgmaxParts.
  void (*argmax)(CardStream, int32_t* ids, const float* logits, const uint8_t* allowed,
                 int64_t rows, int64_t width, uint64_t* scratch);

  // Packed matrices and experts.
  void (*quantise)(CardStream, const CardQuantiseArgs&);
  void (*row_dot)(CardStream, const RowDotArgs&);
  // The first `count` deltas, which name different experts. `deltas` and `count` may lie in pinned
  // memory that the host wrote before the launch. table: [layers][experts]; named: CardSlotCheck's,
  // or null.
  void (*apply_deltas)(CardStream, uint32_t* table, int64_t experts,
                       const CardResidencyDelta* deltas, const uint32_t* count, uint32_t* named);
  void (*post)(CardStream, const CardPostArgs&);
  void (*experts)(CardStream, const CardExpertsArgs&);
  void (*combine)(CardStream, const CardCombineArgs&);
};
inline constexpr int64_t kCardArgmaxParts = 64;

const CardKernels& emulated_kernels();
// Null in a build without nvcc.
const CardKernels* cuda_kernels();

}  // namespace hotset
