// What a forward pass needs from the place that computes it: a dozen operations over rows of
// activations, and memory for sequences. HostDevice (runtime/host) computes them on the CPU. On a
// card each operation is a kernel launch of the same name, so an operation takes views and returns
// nothing to the host. Shapes: [rows][width], row-major float32.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "runtime/model/weights.h"
#include "runtime/sequence_pool.h"
#include "runtime/session.h"

namespace hotset {

// A view of activation rows in the device's memory.
struct Rows {
  float* data = nullptr;
  int64_t rows = 0, width = 0;

  float* row(int64_t r) const { return data + r * width; }
  Rows slice(int64_t first, int64_t count) const { return {row(first), count, width}; }
};

// Rows that matrices are applied to: float32 for the router and float weights, int8 for packed ones
// (docs/numerics.md).
struct Activations {
  Rows x;
  QuantisedRows q;

  Activations slice(int64_t first, int64_t count) const;
  // The same memory as `rows` rows of a smaller width.
  Activations narrowed(int64_t rows, int64_t width) const;
};

// Picks of each row in router rank order, heaviest first: [rows][k].
struct Routing {
  int32_t* experts = nullptr;
  float* weights = nullptr;
  int64_t rows = 0, k = 0;
};

// out = matrix * in, row by row.
struct Projection {
  PackedMatrix matrix;
  Rows out;
};

// Consecutive rows of one sequence at consecutive positions. A run that continues in a later tile
// ends at a multiple of 64 positions (docs/numerics.md: the delta net's chunks), so its bits do not
// depend on what else is in the batch.
struct RowRun {
  const SequenceState* sequence = nullptr;
  int64_t position = 0;  // of the first row
  int64_t first_row = 0, rows = 0;
};

// A prompt is gone through once, decoding goes on with what it has used: they are not cached alike.
enum class StepKind { kDecode, kPrompt };

// Most rows of a mixer's tile: attend and delta_net never see more, so a device sizes their
// workspace by it.
inline constexpr int64_t kMixerTileRows = 512;

// What the host gets of a step, valid until the next one.
struct StepOutput {
  Rows logits;                      // or, where ids to choose from were named,
  std::span<const int32_t> chosen;  // the choice of each row that has logits
};

struct DeviceMemory {
  int64_t kv = 0, recurrent = 0, workspace = 0;  // bytes
  int64_t pinned = 0;                            // of the host's, beside them
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const Weights& weights() const = 0;  // as its operations take them
  virtual DeviceMemory memory() const = 0;

  // Memory for `rows` rows, owned by the device. Called while a model is set up, never during a
  // step.
  virtual Rows allocate_rows(int64_t rows, int64_t width) = 0;
  virtual Activations allocate_activations(int64_t rows, int64_t width) = 0;
  virtual Routing allocate_routing(int64_t rows, int64_t k) = 0;

  // A step of so many rows. `runs`: of all its mixer tiles, in one array; attend and delta_net are
  // given pieces of it.
  virtual void begin_step(int64_t rows, std::span<const RowRun> runs, StepKind kind) = 0;
  // After embed: whether the device has done the rest of a decoding step, up to its logits, as it
  // did one of the same shape before, on the same memory; else the operations follow. Only where
  // every row has logits and nobody looks on or has a say in between.
  virtual bool repeat_step() = 0;
  // Everything of the step has been computed: its logits for the host to read, or only the
  // largest_logit (sampler.h) of `greedy_ids` in each row, if there are any. Throws Error if
  // something in the step went wrong. A step that ends otherwise is abandoned: nothing of it is
  // under way any more afterwards.
  virtual StepOutput end_step(Rows logits, std::span<const uint8_t> greedy_ids) = 0;
  virtual void abandon_step() noexcept = 0;
  // Rows and picks for the host to read, until the next call: for those who look on.
  virtual Rows on_host(Rows rows) = 0;
  virtual Routing on_host(const Routing& routing) = 0;

  // x[r] = embedding of tokens[r].
  virtual void embed(Rows x, std::span<const int32_t> tokens) = 0;
  // out = RMSNorm(x) * weight
  virtual void norm(const Activations& out, Rows x, const float* weight) = 0;
  virtual void project(const Activations& in, std::initializer_list<Projection> projections) = 0;
  virtual void copy(Rows to, Rows from) = 0;
  // x += y
  virtual void add(Rows x, Rows y) = 0;
  // out = SiLU(gate) * up
  virtual void swiglu(const Activations& out, Rows gate, Rows up) = 0;

  // Full attention of layer `w.index` (Qwen3NextAttention of modeling_qwen3_next.py): norms and
  // rotates q and k, appends k and v to each run's sequence, attends, applies the output gate if
  // the model has one.
  virtual void attend(const Activations& out, const AttentionWeights& w, Rows q, Rows k, Rows v,
                      std::span<const RowRun> runs) = 0;
  // Gated delta net of layer `w.index` (Qwen3NextGatedDeltaNet), from the projected q|k|v, z and
  // b|a.
  virtual void delta_net(const Activations& out, const DeltaNetWeights& w, Rows qkv, Rows z,
                         Rows ba, std::span<const RowRun> runs) = 0;

  // Top-k of the router's logits with their weights; the lower index wins a tie.
  virtual void route(const Routing& routing, Rows logits) = 0;
  // Picks [rows][k] that somebody else made, and their weights: the softmax of their logits.
  virtual void set_picks(const Routing& routing, const int32_t* picks, Rows logits) = 0;
  // The picks of a layer are known, and its rows: what has to be fetched for them, or computed
  // elsewhere, may be on its way while other work is done. `in` stays as it is until experts().
  virtual void begin_experts(int32_t layer, const Routing& routing, const Activations& in) = 0;
  // Guesses of a later layer's picks [rows][k]: what is absent of them may be fetched ahead.
  virtual void expect_experts(int32_t layer, const Routing& guess) = 0;
  // Every picked expert of the layer that has begun, on its rows: each row's k outputs are kept
  // apart until combine.
  virtual void experts() = 0;
  // x += sum over ranks of weight * expert output, then sigmoid(shared_gate) * shared. `shared` may
  // be empty.
  virtual void combine(Rows x, const Routing& routing, Rows shared, Rows shared_gate) = 0;

  // KV blocks and recurrent state, in the device's memory.
  virtual SequencePool& sequences() = 0;
};

inline Activations Activations::slice(int64_t first, int64_t count) const {
  const int64_t u = q.units;
  return {x.slice(first, count),
          {q.q + first * u * 32, q.scale + first * u, q.half_sum + first * u * 2, u}};
}

inline Activations Activations::narrowed(int64_t rows, int64_t width) const {
  return {{x.data, rows, width}, {q.q, q.scale, q.half_sum, (width + 31) / 32}};
}

}  // namespace hotset
