// What the launchers of rows and of experts share: the two kernels they are made of, as tasks.
#pragma once

#include "kernels/cuda/card_kernels.h"

namespace hotset::HOTSET_ISA {

// The pairs of a step and the slots of their experts. Plain rows: `places` and `list` null.
struct Slots {
  const CardListedPair* list = nullptr;  // instead of places: row or token i is its pair i
  const int32_t* places = nullptr;       // [pairs]; -1: the pair is left out
  int64_t picks = 1;                     // pairs a row
  const std::byte* at = nullptr;         // slot s at `at` + s * bytes
  int64_t bytes = 0;
};

// Inputs to be quantised: rows of x, or of SiLU(x) * up, in the order that a matrix wants.
struct QuantiseTask {
  const float* x = nullptr;   // row r at x + r * x_stride
  const float* up = nullptr;  // or null; rows as x's
  int64_t x_stride = 0, rows = 0, k = 0;
  QuantisedRows out;
  float* out_x = nullptr;  // [rows][k], or null
  uint32_t* not_finite = nullptr;
  const uint32_t* order = nullptr;  // [k] or null; with slots: order_at bytes into the pair's slot
  int64_t order_at = -1;            // -1: none
  Slots slots;                      // with places, row r is pair r
  bool x_is_by_pair = true;         // else the pair's inputs are those of its row
};
void launch_quantise(CardStream stream, const QuantiseTask& task);

// Row dots of one matrix, or of the one of each pair's expert, matrix_at bytes into its slot.
struct RowDotTask {
  RowDotArgs args;  // with slots: a token is a pair, matrix.data is not looked at
  Slots slots;
  int64_t matrix_at = 0;
  bool x_is_by_pair = true;
  CardSlotCheck check;
};
void launch_row_dot(CardStream stream, const RowDotTask& task);

}  // namespace hotset::HOTSET_ISA
