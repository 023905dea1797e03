#include "runtime/host/host_device.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"

namespace hotset {

namespace {

int64_t layers_of_kind(const Weights& weights, bool delta) {
  return std::count_if(weights.layers.begin(), weights.layers.end(),
                       [&](const LayerWeights& l) { return l.is_delta_net == delta; });
}

}  // namespace

HostDevice::HostDevice(const ModelConfig& c, const Weights& weights, const HostOptions& options,
                       const KernelTable& kernels, ThreadPool& pool, ExpertCache& cache,
                       std::vector<ExpertShape> expert_shapes)
    : config_(c),
      weights_(weights),
      kernels_(kernels),
      pool_(pool),
      cache_(cache),
      expert_shapes_(std::move(expert_shapes)),
      sequences_(c, layers_of_kind(weights, false), layers_of_kind(weights, true),
                 options.sequences, options.positions, options.kv_f16),
      kv_f16_(options.kv_f16) {
  const int64_t tile = std::min(options.rows_max, kMixerTileRows);
  const int64_t heads = c.num_attention_heads * c.head_dim;
  attention_q_ = allocate_rows(tile, heads);
  attention_out_ = allocate_rows(tile, std::max(heads, c.linear_value_dim()));
  convolved_ = allocate_rows(tile, c.conv_channels());
  delta_gates_ = allocate_rows(tile, 2 * c.linear_num_value_heads);

  scratch_floats_ = std::max(attention_scratch_floats(c.head_dim),
                             delta_scratch_floats(c.linear_key_head_dim, c.linear_value_head_dim));
  scratch_floats_ = std::max({scratch_floats_, c.num_experts, c.moe_intermediate_size});
  scratch_floats_ = (scratch_floats_ + 15) / 16 * 16;
  scratch_ = reinterpret_cast<float*>(take(scratch_floats_ * pool.size() * 4));
  kv_blocks_max_ = (options.positions + kKvBlockPositions - 1) / kKvBlockPositions;
  kv_pointers_.resize(static_cast<size_t>(2 * kv_blocks_max_ * pool.size()));

  const int64_t half = c.rotary_dim / 2;
  rope_cos_.resize(static_cast<size_t>(options.positions * half));
  rope_sin_.resize(rope_cos_.size());
  for (int64_t j = 0; j < half; ++j) {
    const double frequency =
        std::pow(c.rope_theta, -2.0 * static_cast<double>(j) / static_cast<double>(c.rotary_dim));
    for (int64_t p = 0; p < options.positions; ++p) {
      // The angle is rounded to float32, as the reference computes it; its cosine is not.
      const float angle = static_cast<float>(p) * static_cast<float>(frequency);
      rope_cos_[p * half + j] = static_cast<float>(std::cos(static_cast<double>(angle)));
      rope_sin_[p * half + j] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }

  const int64_t pairs = options.rows_max * c.num_experts_per_tok;
  pair_begin_.resize(c.num_experts + 1);
  fill_.resize(c.num_experts);
  best_rank_.resize(c.num_experts);
  picks_.reserve(c.num_experts);
  keep_.reserve(c.num_experts);
  row_picks_.resize(c.num_experts_per_tok);
  pair_row_.resize(pairs);
  pair_of_.resize(pairs);
  pair_out_ = allocate_rows(pairs, std::max(c.hidden_size, 2 * c.moe_intermediate_size));
  combined_ = allocate_rows(pool.size(), c.hidden_size);
  pair_hidden_ = allocate_activations(pairs, c.moe_intermediate_size);
  if (weights.ordered_inputs > 0) {
    ordered_ = allocate_activations(options.rows_max, weights.ordered_inputs);
  }
  const auto has_order = [](const ExpertShape& shape) {
    return shape.gate.format.has_order || shape.up.format.has_order;
  };
  if (std::any_of(expert_shapes_.begin(), expert_shapes_.end(), has_order)) {
    pair_ordered_ = allocate_activations(pairs, c.hidden_size);
  }
}

std::byte* HostDevice::take(int64_t bytes) {
  workspace_bytes_ += bytes;
  return memory_.emplace_back(bytes, "activations").data();
}

Rows HostDevice::allocate_rows(int64_t rows, int64_t width) {
  return {reinterpret_cast<float*>(take(rows * width * 4)), rows, width};
}

Activations HostDevice::allocate_activations(int64_t rows, int64_t width) {
  const int64_t units = (width + 31) / 32;
  Activations a;
  a.x = allocate_rows(rows, width);
  a.q.units = units;
  a.q.q = reinterpret_cast<int8_t*>(take(rows * units * 32));
  a.q.scale = reinterpret_cast<float*>(take(rows * units * 4));
  a.q.half_sum = reinterpret_cast<int16_t*>(take(rows * units * 4));
  return a;
}

Routing HostDevice::allocate_routing(int64_t rows, int64_t k) {
  return {reinterpret_cast<int32_t*>(take(rows * k * 4)),
          reinterpret_cast<float*>(take(rows * k * 4)), rows, k};
}

// A sixteenth of a thread's share evens out the threads; less than 64 KB is not worth taking from
// the counter, and a kernel's prefetching ends with its task.
int64_t HostDevice::groups_per_task(const PackedShape& shape, int64_t bytes_in_all) const {
  constexpr int64_t kLeastBytes = 64 << 10;
  const int64_t bytes = std::max(kLeastBytes, bytes_in_all / (16 * pool_.size()));
  const int64_t group_bytes = std::max<int64_t>(1, shape.bytes / shape.groups());
  return std::max<int64_t>(2,
                           bytes / group_bytes / 2 * 2);  // even: AVX-512 takes two groups at once
}

float* HostDevice::thread_scratch(int thread) const {
  return scratch_ + thread * scratch_floats_;
}

void HostDevice::quantise(const float* x, int64_t width, const QuantisedRows& q, int64_t r) {
  if (!kernels_.quantise_activations(x, width, q, r)) {
    throw Error(
        "the step failed: an activation is not finite. The model's weights may be damaged: check "
        "the file with `hotset inspect --verify`");
  }
}

void HostDevice::embed(Rows x, std::span<const int32_t> tokens) {
  const int64_t bytes = row_bytes(weights_.embedding_type, x.width);
  pool_.run(x.rows, [&](int64_t r, int) {
    dequantise_row(weights_.embedding_type, weights_.embedding.data() + tokens[r] * bytes, x.row(r),
                   x.width);
  });
}

void HostDevice::norm(const Activations& out, Rows x, const float* weight) {
  pool_.run(x.rows, [&](int64_t r, int) {
    kernels_.rms_norm(out.x.row(r), x.row(r), weight, x.width,
                      static_cast<float>(config_.rms_norm_eps));
    quantise(out, r);
  });
}

void HostDevice::reorder(const float* from, const uint32_t* order, const Activations& to,
                         int64_t r) {
  float* x = to.x.row(r);
  for (int64_t j = 0; j < to.x.width; ++j) x[j] = from[order[j]];
  quantise(to, r);
}

void HostDevice::project(const Activations& in, std::initializer_list<Projection> projections) {
  const std::span all(projections.begin(), projections.size());
  const auto has_order = [](const Projection& p) { return p.matrix.order() != nullptr; };
  if (std::none_of(all.begin(), all.end(), has_order)) return project_alike(in, all);
  for (const Projection& p : all) {
    const uint32_t* const order = p.matrix.order();
    if (order == nullptr) {
      project_alike(in, {&p, 1});
      continue;
    }
    const Activations ordered = ordered_.narrowed(in.x.rows, in.x.width);
    pool_.run(in.x.rows, [&](int64_t r, int) { reorder(in.x.row(r), order, ordered, r); });
    project_alike(ordered, {&p, 1});
  }
}

void HostDevice::project_alike(const Activations& in, std::span<const Projection> projections) {
  // Tasks are ranges of row groups, over all matrices in turn.
  constexpr size_t kMost = 8;
  HOTSET_CHECK(projections.size() <= kMost, "too many projections of one input");
  struct Split {
    int64_t groups_each, first_task;
  };
  Split splits[kMost];
  int64_t tasks = 0, bytes = 0;
  size_t count = 0;
  for (const Projection& p : projections) bytes += p.matrix.shape.bytes;
  for (const Projection& p : projections) {
    const int64_t each = groups_per_task(p.matrix.shape, bytes);
    splits[count++] = {each, tasks};
    tasks += (p.matrix.shape.groups() + each - 1) / each;
  }
  pool_.run(tasks, [&](int64_t task, int) {
    size_t i = count - 1;
    while (splits[i].first_task > task) --i;
    const Projection& p = projections[i];
    RowDotArgs args;
    args.matrix = p.matrix;
    args.group_begin = (task - splits[i].first_task) * splits[i].groups_each;
    args.group_end = std::min(args.group_begin + splits[i].groups_each, p.matrix.shape.groups());
    args.quantised = in.q;
    args.x = in.x.data;
    args.x_stride = in.x.width;
    args.tokens = in.x.rows;
    args.out = p.out.data;
    args.out_stride = p.out.width;
    kernels_.row_dot(args);
  });
}

void HostDevice::copy(Rows to, Rows from) {
  std::memcpy(to.data, from.data, static_cast<size_t>(from.rows * from.width) * sizeof(float));
}

void HostDevice::add(Rows x, Rows y) {
  pool_.run(x.rows, [&](int64_t r, int) { kernels_.add(x.row(r), y.row(r), x.width); });
}

void HostDevice::swiglu(const Activations& out, Rows gate, Rows up) {
  pool_.run(gate.rows, [&](int64_t r, int) {
    kernels_.silu_mul(out.x.row(r), gate.row(r), up.row(r), gate.width);
    quantise(out, r);
  });
}

std::vector<float> HostDevice::recurrent_state(const SequenceState& s, int64_t index) const {
  const float* state = sequences_.state(s, index);
  return {state, state + sequences_.state_floats()};
}

std::vector<float> HostDevice::conv_state(const SequenceState& s, int64_t index) const {
  // Stored [width - 1][channels]; shown [channels][width - 1] like the reference's.
  const float* conv = sequences_.conv(s, index);
  const int64_t channels = config_.conv_channels(), columns = config_.linear_conv_kernel_dim - 1;
  std::vector<float> shown(static_cast<size_t>(channels * columns));
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t j = 0; j < columns; ++j) shown[c * columns + j] = conv[j * channels + c];
  }
  return shown;
}

}  // namespace hotset
