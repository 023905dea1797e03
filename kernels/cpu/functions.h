// All functions of a KernelTable, once per instruction set: namespace hotset::<isa>. table.cc fills
// the table from this list.
#pragma once

#include "kernels/cpu/kernel_table.h"

namespace hotset::HOTSET_ISA {

bool quantise_activations(const float* x, int64_t k, const QuantisedRows& out, int64_t row);
void row_dot(const RowDotArgs& args);

void rms_norm(float* y, const float* x, const float* weight, int64_t n, float eps);
void l2_norm(float* x, int64_t n, float eps, float factor);
void silu_mul(float* out, const float* gate, const float* up, int64_t n);
void sigmoid_mul(float* x, const float* gate, int64_t n);
void exp(float* y, const float* x, int64_t n);
void add(float* y, const float* x, int64_t n);
void add_scaled(float* y, float w, const float* x, int64_t n);
void softmax(float* p, const float* logits, int64_t n);
void rope(float* head, const float* cos, const float* sin, int64_t half);
void attention(const AttentionArgs& args);
void delta(const DeltaArgs& args);
void conv(float* out, const float* weight, int64_t weight_stride, const float* const* window,
          int64_t channels, int64_t width);
void to_half(uint16_t* out, const float* x, int64_t n);
int64_t peak_byte_dot(int64_t rounds, float* sink);
int64_t peak_float_fma(int64_t rounds, float* sink);

}  // namespace hotset::HOTSET_ISA
