#include "runtime/host/host_device.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "runtime/sampler.h"

namespace hotset {

namespace {

// Reserved at once, committed as it is first touched.
class HostSequenceMemory : public SequenceMemory {
 public:
  std::byte* allocate(int64_t bytes, const char* what) override {
    return memory_.emplace_back(bytes, what).data();
  }
  std::byte* reserve(int64_t bytes, const char* what) override { return allocate(bytes, what); }
  void grow(int64_t) override {}
  void clear(std::byte* at, int64_t bytes) override {
    std::memset(at, 0, static_cast<size_t>(bytes));
  }
  void read(void* to, const std::byte* from, int64_t bytes) override {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  void write(std::byte* to, const void* from, int64_t bytes) override {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }

 private:
  std::vector<Memory> memory_;
};

}  // namespace

HostDevice::HostDevice(const ModelConfig& c, const Weights& weights, const HostOptions& options,
                       const KernelTable& kernels, ThreadPool& pool, ExpertCache& cache,
                       std::vector<ExpertShape> expert_shapes)
    : config_(c),
      weights_(weights),
      kernels_(kernels),
      pool_(pool),
      sequences_(std::make_unique<HostSequenceMemory>(), c, weights.layers_of_kind(false),
                 weights.layers_of_kind(true), options.sequences, options.positions,
                 options.kv_f16),
      experts_(c, kernels, pool, cache, std::move(expert_shapes), options.rows_max),
      kv_f16_(options.kv_f16),
      rope_(rope_table(c, options.positions)),
      tokens_(options.cache_tokens) {
  const int64_t tile = std::min(options.rows_max, kMixerTileRows);
  const int64_t heads = c.num_attention_heads * c.head_dim;
  attention_q_ = allocate_rows(tile, heads);
  attention_out_ = allocate_rows(tile, std::max(heads, c.linear_value_dim()));
  convolved_ = allocate_rows(tile, c.conv_channels());
  delta_gates_ = allocate_rows(tile, 2 * c.linear_num_value_heads);

  scratch_floats_ = std::max(attention_scratch_floats(c.head_dim),
                             delta_scratch_floats(c.linear_key_head_dim, c.linear_value_head_dim));
  scratch_floats_ = std::max(scratch_floats_, c.num_experts);
  scratch_floats_ = (scratch_floats_ + 15) / 16 * 16;
  scratch_ = reinterpret_cast<float*>(workspace_.take(scratch_floats_ * pool.size() * 4));
  kv_blocks_max_ = (options.positions + kKvBlockPositions - 1) / kKvBlockPositions;
  kv_pointers_.resize(static_cast<size_t>(2 * kv_blocks_max_ * pool.size()));

  chosen_.reserve(static_cast<size_t>(options.sequences));
  combined_ = allocate_rows(pool.size(), c.hidden_size);
  if (weights.ordered_inputs > 0) {
    ordered_ = allocate_activations(options.rows_max, weights.ordered_inputs);
  }
}

float* HostDevice::thread_scratch(int thread) const {
  return scratch_ + thread * scratch_floats_;
}

StepOutput HostDevice::end_step(Rows logits, std::span<const uint8_t> greedy_ids) {
  if (greedy_ids.empty()) return {logits, {}};
  chosen_.clear();
  for (int64_t r = 0; r < logits.rows; ++r) {
    chosen_.push_back(
        largest_logit({logits.row(r), static_cast<size_t>(logits.width)}, greedy_ids));
  }
  return {{}, chosen_};
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
    pool_.run(in.x.rows,
              [&](int64_t r, int) { reorder_row(kernels_, in.x.row(r), order, ordered, r); });
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
    const int64_t each = groups_per_task(p.matrix.shape, bytes, pool_.size());
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

}  // namespace hotset
