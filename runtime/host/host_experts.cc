#include "runtime/host/host_experts.h"

#include <algorithm>

#include "kernels/check.h"
#include "runtime/host/packed_rows.h"

namespace hotset {

HostExperts::HostExperts(const ModelConfig& c, const KernelTable& kernels, ThreadPool& pool,
                         ExpertCache& cache, std::vector<ExpertShape> shapes, int64_t rows_max)
    : kernels_(kernels),
      pool_(pool),
      cache_(cache),
      shapes_(std::move(shapes)),
      expert_count_(static_cast<int32_t>(c.num_experts)),
      inner_(c.moe_intermediate_size),
      k_(c.num_experts_per_tok) {
  const int64_t pairs = rows_max * k_;
  pair_begin_.resize(c.num_experts + 1);
  fill_.resize(c.num_experts);
  best_rank_.resize(c.num_experts);
  picks_.reserve(c.num_experts);
  keep_.reserve(c.num_experts);
  row_picks_.reserve(k_);
  pair_row_.resize(pairs);
  pair_of_.resize(pairs);
  pair_out_ = workspace_.rows(pairs, std::max(c.hidden_size, 2 * inner_));
  pair_hidden_ = workspace_.activations(pairs, inner_);
  products_ = workspace_.rows(pool.size(), inner_);
  const auto has_order = [](const ExpertShape& shape) {
    return shape.gate.format.has_order || shape.up.format.has_order;
  };
  if (std::any_of(shapes_.begin(), shapes_.end(), has_order)) {
    pair_ordered_ = workspace_.activations(pairs, c.hidden_size);
  }
}

// The batch's picks, sorted by expert (a counting sort, so a row's place among an expert's rows is
// its place in the batch).
void HostExperts::sort_pairs(const Routing& routing) {
  std::fill(pair_begin_.begin(), pair_begin_.end(), 0);
  std::fill(best_rank_.begin(), best_rank_.end(), static_cast<int32_t>(routing.k));
  const int64_t pairs = routing.rows * routing.k;
  for (int64_t i = 0; i < pairs; ++i) {
    const int32_t e = routing.experts[i];
    if (e < 0) continue;
    ++pair_begin_[e + 1];
    best_rank_[e] = std::min(best_rank_[e], static_cast<int32_t>(i % routing.k));
  }
  picks_.clear();
  for (int32_t e = 0; e < expert_count_; ++e) {
    if (pair_begin_[e + 1] > 0) picks_.push_back({e, best_rank_[e]});
    pair_begin_[e + 1] += pair_begin_[e];
    fill_[e] = pair_begin_[e];
  }
  for (int64_t i = 0; i < pairs; ++i) {
    if (routing.experts[i] < 0) continue;
    const int32_t pair = fill_[routing.experts[i]]++;
    pair_of_[i] = pair;
    pair_row_[pair] = static_cast<int32_t>(i / routing.k);
  }
}

// A prompt goes through the cache without changing it, but for its end: decoding goes on where the
// prompt stops, and uses much of what its last rows have used. Recency is what tells, so the policy
// hears of the last few rows only, one after another.
void HostExperts::keep_last_rows(int32_t layer, const Routing& routing, int64_t now) {
  constexpr int64_t kRowsKept = 256;
  std::fill(fill_.begin(), fill_.end(), 0);
  keep_.clear();
  for (int64_t r = std::max<int64_t>(0, routing.rows - kRowsKept); r < routing.rows; ++r) {
    row_picks_.clear();
    for (int64_t i = 0; i < routing.k; ++i) {
      const int32_t e = routing.experts[r * routing.k + i];
      if (e < 0) continue;
      row_picks_.push_back({e, static_cast<int32_t>(i)});
      if (fill_[e]++ == 0) keep_.push_back(e);
    }
    if (r >= routing.rows - kPromptRowsNoted) cache_.note_use(layer, row_picks_, now);
  }
}

void HostExperts::begin(int32_t layer, const Routing& routing, StepKind kind, int64_t now) {
  cache_.cancel();  // what a step that failed had begun
  layer_ = layer;
  const bool is_prompt = kind == StepKind::kPrompt;
  if (is_prompt) keep_last_rows(layer, routing, now);
  sort_pairs(routing);
  cache_.begin(layer, picks_, now, is_prompt ? EventKind::kPrompt : EventKind::kDecode,
               is_prompt ? std::span<const int32_t>(keep_) : std::span<const int32_t>());
}

void HostExperts::run(const Activations& in) {
  while (true) {
    const std::span<const Lease> wave = cache_.next_wave(expert_count_);
    if (wave.empty()) break;
    run_wave(shapes_[layer_], wave, in);
  }
  cache_.end();
}

// Each pair's input in the order that its expert's gate or up wants.
void HostExperts::reorder_pairs(const ExpertShape& shape, std::span<const Lease> wave,
                                const Activations& in, bool is_up) {
  pool_.run(static_cast<int64_t>(wave.size()), [&](int64_t i, int) {
    const ExpertView expert = expert_view(shape, wave[i].blob);
    const uint32_t* const order = (is_up ? expert.up : expert.gate).order();
    for (int64_t p = pair_begin_[wave[i].expert]; p < pair_begin_[wave[i].expert + 1]; ++p) {
      reorder_row(kernels_, in.x.row(pair_row_[p]), order, pair_ordered_, p);
    }
  });
}

void HostExperts::gate_and_up(const ExpertShape& shape, std::span<const Lease> wave,
                              const Activations& in, int64_t first_part, int64_t parts) {
  const int64_t inner = inner_;
  const auto experts = static_cast<int64_t>(wave.size());
  const int64_t gate_each =
      groups_per_task(shape.gate, experts * parts * shape.gate.bytes, pool_.size());
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
void HostExperts::run_wave(const ExpertShape& shape, std::span<const Lease> wave,
                           const Activations& in) {
  const int64_t inner = inner_;
  const auto rows_of = [&](const Lease& lease) {
    return std::pair(pair_begin_[lease.expert], pair_begin_[lease.expert + 1]);
  };
  const auto experts = static_cast<int64_t>(wave.size());

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
        float* const product = products_.row(thread);
        kernels_.silu_mul(product, pair_out_.row(p), pair_out_.row(p) + inner, inner);
        reorder_row(kernels_, product, order, pair_hidden_, p);
        continue;
      }
      // In place over the gate: only float weights read the float form from a place of its own.
      float* gate = pair_out_.row(p);
      float* hidden = down_is_float ? pair_hidden_.x.row(p) : gate;
      kernels_.silu_mul(hidden, gate, gate + inner, inner);
      quantise_row(kernels_, hidden, inner, pair_hidden_.q, p);
    }
  });
  down(shape, wave);
}

void HostExperts::down(const ExpertShape& shape, std::span<const Lease> wave) {
  const auto experts = static_cast<int64_t>(wave.size());
  const int64_t down_each = groups_per_task(shape.down, experts * shape.down.bytes, pool_.size());
  const int64_t down_tasks = (shape.down.groups() + down_each - 1) / down_each;
  pool_.run(experts * down_tasks, [&](int64_t task, int) {
    const Lease& lease = wave[task / down_tasks];
    const int64_t begin = pair_begin_[lease.expert], end = pair_begin_[lease.expert + 1];
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

}  // namespace hotset
