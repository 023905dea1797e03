// The CPU kernels, compiled once per instruction set from the sources in this folder and chosen at
// run time. Every function gives the same bits in every table (docs/numerics.md: fixed lanes,
// fixed folds, fma exactly where written).
//
// Sources here are compiled with instruction-set flags, so they use no inline code of the standard
// library beyond <cstdint>, <cstddef> and <cstring>: a template instantiated here with AVX-512
// flags could be the copy that the linker keeps for everybody.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed.h"

namespace hotset {

// Two lengths that fix bits (docs/numerics.md), so that kernels and those who cut work for them
// cannot differ: positions in a KV block, each computed on its own; and tokens of the delta net's
// chunked form, which starts at absolute multiples of it.
inline constexpr int64_t kKvBlockPositions = 256;
inline constexpr int64_t kDeltaChunk = 64;

// Activations quantised per 32 inputs (docs/numerics.md). A view; `rows` rows, unit u of row r at
// index r * units + u.
struct QuantisedRows {
  int8_t* q = nullptr;          // [rows][units * 32]
  float* scale = nullptr;       // [rows][units]
  int16_t* half_sum = nullptr;  // [rows][units][2]: sums of q over the halves of the unit
  int64_t units = 0;
};

// Rows of a packed matrix times a few activation rows: out[t * out_stride + n] for n in
// [group_begin * 8, min(group_end * 8, N)).
struct RowDotArgs {
  PackedMatrix matrix;
  int64_t group_begin = 0, group_end = 0;  // row groups of 8
  QuantisedRows quantised;                 // P4, P6, P8
  const float* x = nullptr;                // PF: [rows][x_stride]
  int64_t x_stride = 0;
  const int32_t* row_ids = nullptr;  // activation row of token t; null: t itself
  int64_t tokens = 0;
  float* out = nullptr;  // row t of the result starts at out + t * out_stride (not at row_ids[t])
  int64_t out_stride = 0;
  bool leads_codes = false;  // how hints are given to one token (rows_amx.h); bits do not change
};

// f16 or f32 keys/values of one KV head in blocks of 256 positions.
struct AttentionArgs {
  const float* q =
      nullptr;  // [heads][dim] of one row: the query heads that share this KV head, already scaled
  int64_t heads = 0, dim = 0;
  const void* const* k_blocks = nullptr;  // [blocks] -> [256][dim]
  const void* const* v_blocks = nullptr;
  int64_t positions = 0;  // attends to positions 0 .. positions-1
  bool is_f16 = true;
  float* out = nullptr;      // [heads][dim]
  float* scratch = nullptr;  // attention_scratch_floats(dim)
};

// One value head of the gated delta net over consecutive tokens of one session
// (delta_net.cc).
struct DeltaArgs {
  int64_t tokens = 0;  // 1: the recurrent form; 2..64: one chunk
  int64_t dk = 0, dv = 0;
  const float* q = nullptr;  // token t at q + t * q_stride: normalised and scaled
  const float* k = nullptr;  // normalised
  const float* v = nullptr;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  const float* g = nullptr;     // log decay, token t at g[t * gate_stride]
  const float* beta = nullptr;  // likewise
  int64_t gate_stride = 0;
  float* state = nullptr;  // [dk][dv], read and written
  float* out = nullptr;    // token t at out + t * out_stride, dv values
  int64_t out_stride = 0;
  float* scratch = nullptr;  // delta_scratch_floats(dk, dv)
};

struct KernelTable {
  const char* name;  // portable, avx2, avx512, avx512vnni, amx

  // Quantises one row of k floats into row `row` of out. Returns false if an input is not finite.
  bool (*quantise_activations)(const float* x, int64_t k, const QuantisedRows& out, int64_t row);
  void (*row_dot)(const RowDotArgs& args);

  // y[i] = x[i] * rsqrt(mean(x^2) + eps) * weight[i]; sum of squares in 16 lanes.
  void (*rms_norm)(float* y, const float* x, const float* weight, int64_t n, float eps);
  // x *= factor * rsqrt(sum(x^2) + eps)
  void (*l2_norm)(float* x, int64_t n, float eps, float factor);
  void (*silu_mul)(float* out, const float* gate, const float* up, int64_t n);  // SiLU(gate) * up
  void (*sigmoid_mul)(float* x, const float* gate, int64_t n);       // x *= sigmoid(gate)
  void (*exp)(float* y, const float* x, int64_t n);                  // docs/numerics.md
  void (*add)(float* y, const float* x, int64_t n);                  // y += x
  void (*add_scaled)(float* y, float w, const float* x, int64_t n);  // y = fma(w, x, y)
  // Softmax of n logits into p; returns nothing, p sums to about 1.
  void (*softmax)(float* p, const float* logits, int64_t n);
  // Half-split rotation of the first 2 * half values of a head by cos/sin of this position.
  void (*rope)(float* head, const float* cos, const float* sin, int64_t half);
  void (*attention)(const AttentionArgs& args);
  void (*delta)(const DeltaArgs& args);
  // Causal depthwise convolution with SiLU: out[c] = SiLU(sum_j weight[j * weight_stride + c] *
  // window[j][c]), j rising, oldest input first.
  void (*conv)(float* out, const float* weight, int64_t weight_stride, const float* const* window,
               int64_t channels, int64_t width);
  void (*to_half)(uint16_t* out, const float* x, int64_t n);

  // Yardsticks: register-only loops of the byte dot and of the float multiply-add. Return how many
  // multiply-adds they did; `sink` takes 16 floats.
  int64_t (*peak_byte_dot)(int64_t rounds, float* sink);
  int64_t (*peak_float_fma)(int64_t rounds, float* sink);
};

// Floats of scratch, 64-byte aligned, that one call needs.
inline constexpr int64_t attention_scratch_floats(int64_t dim) {
  return 8 * (kKvBlockPositions + dim + 2);
}
inline constexpr int64_t delta_scratch_floats(int64_t dk, int64_t dv) {
  return kDeltaChunk * (3 * kDeltaChunk + 4 * (dk > dv ? dk : dv) + dv + 3);
}

// The table of that name, or null if this machine cannot run it (or the name is unknown).
const KernelTable* find_kernel_table(const char* name);
// Names of all tables, best last; and the best one this machine runs.
inline constexpr const char* kKernelTableNames[] = {"portable", "avx2", "avx512", "avx512vnni",
                                                    "amx"};
const KernelTable& best_kernel_table();
// The one a user asked for: a name, or auto for the best. Throws Error.
const KernelTable& kernel_table_named(const char* name);

}  // namespace hotset
