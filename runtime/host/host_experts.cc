// Router picks, routed experts through the cache, and their combination on the CPU
// (Qwen3NextSparseMoeBlock of modeling_qwen3_next.py).
#include <algorithm>

#include "kernels/check.h"
#include "runtime/host/host_device.h"

namespace hotset {

void HostDevice::route(const Routing& routing, Rows logits) {
  pool_.run(routing.rows, [&](int64_t r, int thread) {
    int32_t* picked = routing.experts + r * routing.k;
    float* weights = routing.weights + r * routing.k;
    const float* l = logits.row(r);
    // Insertion into the k best so far; a strict comparison leaves a tie to the lower index.
    int64_t count = 0;
    for (int64_t e = 0; e < logits.width; ++e) {
      if (count == routing.k && !(l[e] > l[picked[count - 1]])) continue;
      int64_t at = count < routing.k ? count++ : count - 1;
      for (; at > 0 && l[e] > l[picked[at - 1]]; --at) picked[at] = picked[at - 1];
      picked[at] = static_cast<int32_t>(e);
    }
    float* p = thread_scratch(thread);
    kernels_.softmax(p, l, logits.width);
    float sum = 0.0f;
    for (int64_t i = 0; i < routing.k; ++i) {
      weights[i] = p[picked[i]];
      sum += weights[i];
    }
    if (!config_.norm_topk_prob) return;
    for (int64_t i = 0; i < routing.k; ++i) weights[i] /= sum;
  });
}

void HostDevice::weigh(const Routing& routing, Rows logits) {
  pool_.run(routing.rows, [&](int64_t r, int thread) {
    const int32_t* picked = routing.experts + r * routing.k;
    float* picked_logits = thread_scratch(thread);
    for (int64_t i = 0; i < routing.k; ++i) picked_logits[i] = logits.row(r)[picked[i]];
    kernels_.softmax(routing.weights + r * routing.k, picked_logits, routing.k);
  });
}

// The batch's picks, sorted by expert (a counting sort, so a row's place among an expert's rows is
// its place in the batch).
void HostDevice::sort_pairs(const Routing& routing) {
  std::fill(pair_begin_.begin(), pair_begin_.end(), 0);
  std::fill(best_rank_.begin(), best_rank_.end(), static_cast<int32_t>(routing.k));
  const int64_t pairs = routing.rows * routing.k;
  for (int64_t i = 0; i < pairs; ++i) {
    const int32_t e = routing.experts[i];
    ++pair_begin_[e + 1];
    best_rank_[e] = std::min(best_rank_[e], static_cast<int32_t>(i % routing.k));
  }
  picks_.clear();
  for (int32_t e = 0; e < config_.num_experts; ++e) {
    if (pair_begin_[e + 1] > 0) picks_.push_back({e, best_rank_[e]});
    pair_begin_[e + 1] += pair_begin_[e];
    fill_[e] = pair_begin_[e];
  }
  for (int64_t i = 0; i < pairs; ++i) {
    const int32_t pair = fill_[routing.experts[i]]++;
    pair_of_[i] = pair;
    pair_row_[pair] = static_cast<int32_t>(i / routing.k);
  }
}

// A prompt goes through the cache without changing it, but for its end: decoding goes on where the
// prompt stops, and uses much of what its last rows have used. Recency is what tells, so the policy
// hears of the last few rows only, one after another.
void HostDevice::keep_last_rows(int32_t layer, const Routing& routing) {
  constexpr int64_t kRowsKept = 256, kRowsNoted = 32;
  std::fill(fill_.begin(), fill_.end(), 0);
  keep_.clear();
  for (int64_t r = std::max<int64_t>(0, routing.rows - kRowsKept); r < routing.rows; ++r) {
    for (int64_t i = 0; i < routing.k; ++i) {
      const int32_t e = routing.experts[r * routing.k + i];
      row_picks_[i] = {e, static_cast<int32_t>(i)};
      if (fill_[e]++ == 0) keep_.push_back(e);
    }
    if (r >= routing.rows - kRowsNoted) cache_.note_use(layer, row_picks_, tokens_);
  }
}

void HostDevice::begin_experts(int32_t layer, const Routing& routing, StepKind kind) {
  cache_.cancel();  // what a step that failed had begun
  if (layer <= layer_) tokens_ += routing.rows;
  layer_ = layer;
  const bool is_prompt = kind == StepKind::kPrompt;
  if (is_prompt) keep_last_rows(layer, routing);
  sort_pairs(routing);
  cache_.begin(layer, picks_, tokens_, is_prompt ? EventKind::kPrompt : EventKind::kDecode,
               is_prompt ? std::span<const int32_t>(keep_) : std::span<const int32_t>());
}

void HostDevice::expect_experts(int32_t layer, const Routing& guess) {
  cache_.expect(layer, {guess.experts, static_cast<size_t>(guess.rows * guess.k)});
}

void HostDevice::experts(const Activations& in) {
  while (true) {
    const std::span<const Lease> wave = cache_.next_wave(static_cast<int32_t>(config_.num_experts));
    if (wave.empty()) break;
    run_wave(expert_shapes_[layer_], wave, in);
  }
  cache_.end();
}

// Each pair's input in the order that its expert's gate or up wants.
void HostDevice::reorder_pairs(const ExpertShape& shape, std::span<const Lease> wave,
                               const Activations& in, bool is_up) {
  pool_.run(static_cast<int64_t>(wave.size()), [&](int64_t i, int) {
    const ExpertView expert = expert_view(shape, wave[i].blob);
    const uint32_t* const order = (is_up ? expert.up : expert.gate).order();
    for (int64_t p = pair_begin_[wave[i].expert]; p < pair_begin_[wave[i].expert + 1]; ++p) {
      reorder(in.x.row(pair_row_[p]), order, pair_ordered_, p);
    }
  });
}

void HostDevice::gate_and_up(const ExpertShape& shape, std::span<const Lease> wave,
                             const Activations& in, int64_t first_part, int64_t parts) {
  const int64_t inner = config_.moe_intermediate_size;
  const auto experts = static_cast<int64_t>(wave.size());
  const int64_t gate_each = groups_per_task(shape.gate, experts * parts * shape.gate.bytes);
  const int64_t gate_tasks = (shape.gate.groups() + gate_each - 1) / gate_each;
  pool_.run(experts * parts * gate_tasks, [&](int64_t task, int) {
    const Lease& lease = wave[task / (parts * gate_tasks)];
    const bool is_up = first_part + task / gate_tasks % parts != 0;
    const ExpertView expert = expert_view(shape, lease.blob);
    const int64_t begin = pair_begin_[lease.expert], end = pair_begin_[lease.expert + 1];
    RowDotArgs args;
    args.matrix = is_up ? expert.up : expert.gate;
    args.group_begin = task % gate_tasks * gate_each;
    args.group_end = std::min(args.group_begin + gate_each, shape.gate.groups());
    const bool has_order = args.matrix.order() != nullptr;
    const Activations inputs = has_order ? pair_ordered_.slice(begin, end - begin) : in;
    args.quantised = inputs.q;
    args.x = inputs.x.data;
    args.x_stride = inputs.x.width;
    args.row_ids = has_order ? nullptr : pair_row_.data() + begin;
    args.tokens = end - begin;
    args.out = pair_out_.row(begin) + (is_up ? inner : 0);
    args.out_stride = pair_out_.width;
    kernels_.row_dot(args);
  });
}

// Gate and up of all leased experts, SwiGLU, then down: tasks are ranges of rows of a matrix,
// scheduled by bytes and not by expert, so that two threads share ten experts evenly.
void HostDevice::run_wave(const ExpertShape& shape, std::span<const Lease> wave,
                          const Activations& in) {
  const int64_t inner = config_.moe_intermediate_size;
  const auto rows_of = [&](const Lease& lease) {
    return std::pair(pair_begin_[lease.expert], pair_begin_[lease.expert + 1]);
  };
  const auto experts = static_cast<int64_t>(wave.size());
  const int64_t down_each = groups_per_task(shape.down, experts * shape.down.bytes);
  const int64_t down_tasks = (shape.down.groups() + down_each - 1) / down_each;

  if (shape.gate.format.has_order || shape.up.format.has_order) {
    for (const bool is_up : {false, true}) {  // each has an order of its own
      if ((is_up ? shape.up : shape.gate).format.has_order) reorder_pairs(shape, wave, in, is_up);
      gate_and_up(shape, wave, in, is_up ? 1 : 0, 1);
    }
  } else {
    gate_and_up(shape, wave, in, 0, 2);
  }
  const bool down_is_float = shape.down.format.is_float();
  pool_.run(experts, [&](int64_t i, int thread) {
    const auto [begin, end] = rows_of(wave[i]);
    const uint32_t* const order = expert_view(shape, wave[i].blob).down.order();
    for (int64_t p = begin; p < end; ++p) {
      if (order != nullptr) {
        float* const product = thread_scratch(thread);
        kernels_.silu_mul(product, pair_out_.row(p), pair_out_.row(p) + inner, inner);
        reorder(product, order, pair_hidden_, p);
        continue;
      }
      // In place over the gate: only float weights read the float form from a place of its own.
      float* gate = pair_out_.row(p);
      float* hidden = down_is_float ? pair_hidden_.x.row(p) : gate;
      kernels_.silu_mul(hidden, gate, gate + inner, inner);
      quantise(hidden, inner, pair_hidden_.q, p);
    }
  });
  pool_.run(experts * down_tasks, [&](int64_t task, int) {
    const Lease& lease = wave[task / down_tasks];
    const auto [begin, end] = rows_of(lease);
    const Activations hidden = pair_hidden_.slice(begin, end - begin);
    RowDotArgs args;
    args.matrix = expert_view(shape, lease.blob).down;
    args.group_begin = task % down_tasks * down_each;
    args.group_end = std::min(args.group_begin + down_each, shape.down.groups());
    args.quantised = hidden.q;
    args.x = hidden.x.data;
    args.x_stride = hidden.x.width;
    args.tokens = end - begin;
    args.out = pair_out_.row(begin);
    args.out_stride = pair_out_.width;
    kernels_.row_dot(args);
  });
}

void HostDevice::combine(Rows x, const Routing& routing, Rows shared, Rows shared_gate) {
  pool_.run(x.rows, [&](int64_t r, int thread) {
    float* y = combined_.row(thread);
    std::fill(y, y + x.width, 0.0f);
    for (int64_t i = 0; i < routing.k; ++i) {
      kernels_.add_scaled(y, routing.weights[r * routing.k + i],
                          pair_out_.row(pair_of_[r * routing.k + i]), x.width);
    }
    if (shared.data != nullptr) {
      const float minus_gate = -shared_gate.row(r)[0];
      float power;
      kernels_.exp(&power, &minus_gate, 1);
      kernels_.add_scaled(y, 1.0f / (1.0f + power), shared.row(r), x.width);
    }
    kernels_.add(x.row(r), y, x.width);
  });
}

}  // namespace hotset
