#include "runtime/card/card_device.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/check.h"
#include "runtime/card/card_weights.h"
#include "runtime/host/rope_table.h"

namespace hotset {

namespace {

// Rows whose attention is spread over blocks of threads by context; more rows fill a card anyway.
constexpr int64_t kSpreadRowsMax = 8;

CardMemory on_card(CardRuntime& card, CardStream stream, const Memory& memory, int64_t bytes) {
  CardMemory image(card, CardMemory::Place::kCard, bytes, "dense weights");
  card.copy(stream, image.data(), memory.data(), bytes);
  return image;
}

// Pinned memory that grows when more is asked for: what observers see, and the logits.
std::byte* grown(CardMemory& memory, CardRuntime& card, int64_t bytes, const char* what) {
  if (memory.bytes() < bytes) {
    memory = CardMemory(card, CardMemory::Place::kPinned, bytes, what);
  }
  return memory.data();
}

}  // namespace

// The host's side is ordinary memory: such copies are complete, or have read all, when they return.
class CardDevice::SequenceBytes : public SequenceMemory {
 public:
  explicit SequenceBytes(CardDevice& device)
      : device_(device), card_(device.card_), stream_(device.stream_) {}
  std::byte* allocate(int64_t bytes, const char* what) override {
    return memory_.emplace_back(card_, CardMemory::Place::kCard, bytes, what).data();
  }
  std::byte* reserve(int64_t bytes, const char* what) override {
    device_.kv_ = CardReservation(card_, bytes, what);
    return device_.kv_.data();
  }
  void grow(int64_t bytes) override { device_.grow_sequences(bytes); }
  void clear(std::byte* at, int64_t bytes) override { card_.fill(stream_, at, 0, bytes); }
  void read(void* to, const std::byte* from, int64_t bytes) override {
    card_.copy(stream_, to, from, bytes);
  }
  void write(std::byte* to, const void* from, int64_t bytes) override {
    card_.copy(stream_, to, from, bytes);
  }

 private:
  CardDevice& device_;
  CardRuntime& card_;
  const CardStream stream_;
  std::vector<CardMemory> memory_;
};

CardDevice::CardDevice(const ModelConfig& c, Weights& weights, CardRuntime& card,
                       const CardKernels& kernels, HostExperts& host, ExpertCache& cache,
                       Recorder& recorder, const CardOptions& options)
    : config_(c),
      host_weights_(weights),
      card_(card),
      kernels_(kernels),
      own_stream_(card),
      stream_(own_stream_.stream),
      image_(on_card(card, stream_, weights.memory, weights.image_bytes)),
      weights_(weights_at(weights, image_.data())),
      recorder_(recorder),
      workspace_(card),
      room_(options.room),
      sequences_(std::make_unique<SequenceBytes>(*this), c, weights.layers_of_kind(false),
                 weights.layers_of_kind(true), options.sequences, options.positions,
                 options.kv_f16),
      experts_(c, card, kernels, stream_, host, cache, recorder, options.experts),
      kv_f16_(options.kv_f16) {
  weights.memory = {};
  const int64_t rows_max = options.experts.rows_max, tile = std::min(rows_max, kMixerTileRows);
  const int64_t heads = c.num_attention_heads * c.head_dim;
  const RopeTable rope = rope_table(c, options.positions);
  cos_ = workspace_.take<float>(std::ssize(rope.cos));
  sin_ = workspace_.take<float>(std::ssize(rope.sin));
  card.copy(stream_, cos_, rope.cos.data(), std::ssize(rope.cos) * 4);
  card.copy(stream_, sin_, rope.sin.data(), std::ssize(rope.sin) * 4);
  runs_max_ = 2 * rows_max;
  runs_ = workspace_.take<CardRun>(runs_max_);
  runs_next_ = workspace_.take_pinned<CardRun>(runs_max_);
  const int64_t blocks = sequences_.sequences() * sequences_.blocks_each();
  blocks_ = workspace_.take<std::byte*>(blocks);
  blocks_next_ = workspace_.take_pinned<std::byte*>(blocks);
  embedded_ = workspace_.take_pinned<float>(rows_max * c.hidden_size);
  rotated_ = allocate_rows(tile, heads);
  attend_scratch_ = workspace_.take<float>(card_attend_scratch_floats(
      std::min(tile, kSpreadRowsMax), c.num_attention_heads, c.head_dim,
      static_cast<int64_t>(
          std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(1, sequences_.blocks_each()))))));
  convolved_ = allocate_rows(tile, c.conv_channels());
  delta_gates_ = allocate_rows(tile, 2 * c.linear_num_value_heads);
  delta_raw_ = allocate_rows(tile, c.linear_value_dim());
  delta_scratch_ = workspace_.take<float>(
      weights_.layers_of_kind(true) == 0
          ? 0
          : card_delta_scratch_floats(c.linear_key_head_dim, c.linear_value_head_dim));
  if (weights_.ordered_inputs > 0) {
    ordered_ = allocate_activations(rows_max, weights_.ordered_inputs);
  }
  allowed_ = workspace_.take<uint8_t>(c.vocab_size);
  allowed_next_ = workspace_.take_pinned<uint8_t>(c.vocab_size);
  std::fill_n(allowed_next_, c.vocab_size, uint8_t{0xFF});  // nobody's, so the first is a new one
  chosen_ = workspace_.take<int32_t>(options.sequences);
  chosen_seen_ = workspace_.take_pinned<int32_t>(options.sequences);
  argmax_scratch_ = workspace_.take<uint64_t>(options.sequences * kCardArgmaxParts);
  fit_slots(room_, 0);
  make_ring(room_);
  slow_bytes_ = experts_.slow_bytes();
}

// What is still on the stream, a session's clear state, writes memory that goes before the stream.
CardDevice::~CardDevice() {
  try {
    card_.synchronise(stream_);
  } catch (...) {  // the card has failed: nothing runs on it any more
  }
  for (const StepGraph& graph : graphs_) card_.close_graph(graph.graph);
}

DeviceMemory CardDevice::memory() const {
  return {sequences_.kv_bytes(), sequences_.recurrent_bytes(),
          workspace_.bytes() + experts_.card_bytes(),
          workspace_.pinned_bytes() + experts_.pinned_bytes()};
}

// A first block of every sequence is kept for it: a session would take it back at once.
void CardDevice::fit_slots(const CardRoom& room, int64_t kv_bytes) {
  const int64_t kv = std::max(kv_bytes, sequences_.sequences() * sequences_.block_bytes());
  SlotPlan plan = experts_.plan_slots(std::min(room.expert_bytes, room.with_kv_bytes - kv));
  if (plan.slot_bytes_total == experts_.slot_bytes()) return;
  if (!experts_.resize(std::move(plan))) return;
  for (const StepGraph& graph : graphs_) card_.close_graph(graph.graph);
  graphs_.clear();
}

void CardDevice::set_room(const CardRoom& room) {
  const std::lock_guard turn(turns_);
  fit_slots(room, kv_.bytes());
  room_ = room;
  make_ring(room);
}

// A ring that was made stays. Sequences may yet take from the slots what is theirs in the end.
void CardDevice::make_ring(const CardRoom& room) {
  const int64_t bytes = std::min(room.expert_bytes, room.with_kv_bytes - sequences_.kv_bytes());
  if (!experts_.plan_slots(bytes).all_resident()) experts_.make_ring();
}

// At a step's head, or for a session that is restored: slots give what the sequences need. Where
// somebody else has taken of the card's memory meanwhile they give more, until the room is set
// again.
void CardDevice::grow_sequences(int64_t bytes) {
  const std::lock_guard turn(turns_);
  while (true) {
    fit_slots(room_, bytes);
    try {
      return kv_.commit(bytes);
    } catch (const Error&) {
      const int64_t slot_bytes = experts_.slot_bytes();
      if (slot_bytes == 0) throw;
      room_.expert_bytes = std::max<int64_t>(0, slot_bytes - (bytes - kv_.bytes()));
    }
  }
}

// At the head of a token, and not of a prompt, which would take it again: what sessions that have
// ended or were shortened leave is the slots'. What was written into it is waited for. Where
// somebody else has taken that memory meanwhile the slots stay as they are, until the room is set
// again.
void CardDevice::shrink_sequences() {
  const int64_t bytes = sequences_.drop_unused_end();
  if (bytes == kv_.bytes()) return;
  card_.synchronise(stream_);
  kv_.commit(bytes);
  try {
    fit_slots(room_, bytes);
  } catch (const CardError& error) {
    if (error.is_lost()) throw;
    room_.expert_bytes = experts_.slot_bytes();
  }
}

int64_t CardDevice::ring_bytes() const {
  const std::lock_guard turn(turns_);
  return experts_.ring_bytes();
}

int64_t CardDevice::shared_bytes() const {
  const std::lock_guard turn(turns_);
  return experts_.slot_bytes() + kv_.bytes();
}

// What changes from step to step goes to the card's memory from pinned buffers, which are written
// again when the step has ended there.
void CardDevice::begin_step(int64_t rows, std::span<const RowRun> runs, StepKind kind) {
  HOTSET_CHECK(std::ssize(runs) <= runs_max_, "more runs than rows");
  step_turn_ = std::unique_lock(turns_);
  if (kind == StepKind::kDecode) shrink_sequences();
  step_runs_ = runs;
  experts_.begin_step(rows, kind);
  const int64_t each = sequences_.blocks_each();
  for (size_t i = 0; i < runs.size(); ++i) {
    const RowRun& run = runs[i];
    const int32_t sequence = run.sequence->recurrent;
    runs_next_[i] = {static_cast<int32_t>(run.first_row), static_cast<int32_t>(run.rows),
                     static_cast<int32_t>(run.position), sequence};
    for (size_t b = 0; b < run.sequence->kv_blocks.size(); ++b) {
      blocks_next_[sequence * each + static_cast<int64_t>(b)] =
          sequences_.block(run.sequence->kv_blocks[b]);
    }
  }
  card_.copy(stream_, runs_, runs_next_, std::ssize(runs) * static_cast<int64_t>(sizeof(CardRun)));
  card_.copy(stream_, blocks_, blocks_next_,
             sequences_.sequences() * each * static_cast<int64_t>(sizeof(std::byte*)));
}

// What changes from token to token lies in the card's memory, and not in the kernels' arguments,
// but for the number of context blocks that attention is spread over.
bool CardDevice::repeat_step() {
  const auto rows = static_cast<int64_t>(step_runs_.size());
  const int64_t blocks = context_blocks(step_runs_, rows);
  if (blocks == 0) return false;  // many rows: a step that is rare, and long
  for (const StepGraph& graph : graphs_) {
    if (graph.rows != rows || graph.context_blocks != blocks) continue;
    launch(graph);
    return true;
  }
  card_.begin_capture(stream_);
  graphs_.push_back({rows, blocks, {}});
  is_capturing_ = true;
  return false;
}

// An emulated card has run the whole of it when this returns: to watchers it is a wait for either.
void CardDevice::launch(const StepGraph& graph) {
  const auto wait = recorder_.range(RangeName::kCardWait);
  card_.launch(graph.graph, stream_);
}

void CardDevice::finish_capture() {
  if (!std::exchange(is_capturing_, false)) return;
  graphs_.back().graph = card_.end_capture(stream_);
}

StepOutput CardDevice::end_step(Rows logits, std::span<const uint8_t> greedy_ids) {
  if (is_capturing_) {
    finish_capture();
    launch(graphs_.back());
  }
  StepOutput out;
  if (greedy_ids.empty()) {
    const int64_t bytes = logits.rows * logits.width * 4;
    auto* const seen = reinterpret_cast<float*>(grown(logits_, card_, bytes, "logits"));
    card_.copy(stream_, seen, logits.data, bytes);
    out.logits = {seen, logits.rows, logits.width};
  } else {
    out.chosen = choose(logits, greedy_ids);
  }
  experts_.end_step();
  {
    const auto wait = recorder_.range(RangeName::kCardWait);
    card_.synchronise(stream_);
  }
  experts_.finish_step();
  tell_watchers();
  step_turn_ = {};
  return out;
}

// Four bytes a row come to the host, and not the logits. The host waits for them all the same: it
// must know whether the answer ends here before it computes on (a recurrent state cannot be taken
// back), has to choose what to copy from the picks, and looks the token's embedding up, whose table
// is the host's and of any source type.
std::span<const int32_t> CardDevice::choose(Rows logits, std::span<const uint8_t> allowed) {
  HOTSET_CHECK(logits.rows <= sequences_.sequences() && std::ssize(allowed) == logits.width,
               "a choice is a session's, and of all ids");
  if (!std::equal(allowed.begin(), allowed.end(), allowed_next_)) {
    std::copy(allowed.begin(), allowed.end(), allowed_next_);
    card_.copy(stream_, allowed_, allowed_next_, std::ssize(allowed));
  }
  kernels_.argmax(stream_, chosen_, logits.data, allowed_, logits.rows, logits.width,
                  argmax_scratch_);
  card_.copy(stream_, chosen_seen_, chosen_, logits.rows * static_cast<int64_t>(sizeof(int32_t)));
  return {chosen_seen_, static_cast<size_t>(logits.rows)};
}

// All that the tier has counted since a step was told of last.
void CardDevice::tell_watchers() {
  const CacheStats stats = tier().stats(), before = std::exchange(told_, stats);
  const CardTier::Bytes bytes = tier().bytes();
  recorder_.card(
      {stats.hits - before.hits, stats.misses - before.misses, bytes.slots, bytes.resident});
}

// The misses' server is still there: what waits for it on the card gets its answers.
void CardDevice::abandon_step() noexcept {
  try {
    if (is_capturing_) {  // half a step is no graph
      graphs_.pop_back();
      is_capturing_ = false;
      card_.close_graph(card_.end_capture(stream_));
    }
    card_.synchronise(stream_);
  } catch (...) {  // the card has failed: nothing runs on it any more
  }
  experts_.abandon_step();
  step_turn_ = {};
}

Rows CardDevice::on_host(Rows rows) {
  const int64_t bytes = rows.rows * rows.width * 4;
  auto* const seen = reinterpret_cast<float*>(grown(seen_, card_, bytes, "rows"));
  card_.copy(stream_, seen, rows.data, bytes);
  card_.synchronise(stream_);
  return {seen, rows.rows, rows.width};
}

Routing CardDevice::on_host(const Routing& routing) {
  const int64_t bytes = routing.rows * routing.k * 4;
  std::byte* const seen = grown(seen_routing_, card_, 2 * bytes, "picks");
  card_.copy(stream_, seen, routing.experts, bytes);
  card_.copy(stream_, seen + bytes, routing.weights, bytes);
  card_.synchronise(stream_);
  return {reinterpret_cast<int32_t*>(seen), reinterpret_cast<float*>(seen + bytes), routing.rows,
          routing.k};
}

// The embedding stays with the host: rows are few, and the table is large.
void CardDevice::embed(Rows x, std::span<const int32_t> tokens) {
  const TensorType type = host_weights_.embedding_type;
  const int64_t bytes = row_bytes(type, x.width);
  for (int64_t r = 0; r < x.rows; ++r) {
    dequantise_row(type, host_weights_.embedding.data() + tokens[r] * bytes,
                   embedded_ + r * x.width, x.width);
  }
  card_.copy(stream_, x.data, embedded_, x.rows * x.width * 4);
}

void CardDevice::quantise(const Activations& a, const uint32_t* order, const Activations& to) {
  CardQuantiseArgs args;
  args.x = a.x.data;
  args.x_stride = a.x.width;
  args.rows = a.x.rows;
  args.k = a.x.width;
  args.order = order;
  args.out = to.q;
  args.out_x = order != nullptr ? to.x.data : nullptr;
  args.not_finite = experts_.not_finite();
  kernels_.quantise(stream_, args);
}

void CardDevice::norm(const Activations& out, Rows x, const float* weight) {
  kernels_.norm(stream_, out.x.data, x.data, weight, x.rows, x.width,
                static_cast<float>(config_.rms_norm_eps));
  quantise(out);
}

void CardDevice::project(const Activations& in, std::initializer_list<Projection> projections) {
  for (const Projection& p : projections) {
    Activations input = in;
    if (const uint32_t* const order = p.matrix.order()) {
      input = ordered_.narrowed(in.x.rows, in.x.width);
      quantise(in, order, input);
    }
    RowDotArgs args;
    args.matrix = p.matrix;
    args.group_end = p.matrix.shape.groups();
    args.quantised = input.q;
    args.x = input.x.data;
    args.x_stride = input.x.width;
    args.tokens = input.x.rows;
    args.out = p.out.data;
    args.out_stride = p.out.width;
    kernels_.row_dot(stream_, args);
  }
}

void CardDevice::copy(Rows to, Rows from) {
  kernels_.copy(stream_, to.data, from.data, from.rows * from.width);
}

void CardDevice::add(Rows x, Rows y) {
  kernels_.add(stream_, x.data, y.data, x.rows * x.width);
}

void CardDevice::swiglu(const Activations& out, Rows gate, Rows up) {
  kernels_.swiglu(stream_, out.x.data, gate.data, up.data, gate.rows * gate.width);
  quantise(out);
}

CardStep CardDevice::step_of(std::span<const RowRun> runs, int64_t rows) const {
  CardStep step;
  step.runs = runs_ + (runs.data() - step_runs_.data());
  step.run_count = std::ssize(runs);
  step.rows = rows;
  step.kv_blocks = blocks_;
  step.blocks_each = sequences_.blocks_each();
  return step;
}

// Rounded up to a power of two: a token's launches then change seldom.
int64_t CardDevice::context_blocks(std::span<const RowRun> runs, int64_t rows) const {
  if (rows > kSpreadRowsMax) return 0;
  int64_t positions = 1;
  for (const RowRun& run : runs) positions = std::max(positions, run.position + run.rows);
  const auto blocks = static_cast<uint64_t>((positions - 1) / kKvBlockPositions + 1);
  return static_cast<int64_t>(std::bit_ceil(blocks));
}

void CardDevice::attend(const Activations& out, const AttentionWeights& w, Rows q, Rows k, Rows v,
                        std::span<const RowRun> runs) {
  CardAttendArgs args;
  args.step = step_of(runs, out.x.rows);
  args.layer = w.index;
  args.heads = config_.num_attention_heads;
  args.kv_heads = config_.num_key_value_heads;
  args.dim = config_.head_dim;
  args.half = config_.rotary_dim / 2;
  args.gated = config_.attention_gate;
  args.kv_f16 = kv_f16_;
  args.eps = static_cast<float>(config_.rms_norm_eps);
  args.q_norm = w.q_norm;
  args.k_norm = w.k_norm;
  args.cos = cos_;
  args.sin = sin_;
  args.q = q.data;
  args.k = k.data;
  args.v = v.data;
  args.rotated = rotated_.data;
  args.out = out.x.data;
  args.context_blocks = context_blocks(runs, out.x.rows);
  args.scratch = attend_scratch_;
  kernels_.attend(stream_, args);
  quantise(out);
}

void CardDevice::delta_net(const Activations& out, const DeltaNetWeights& w, Rows qkv, Rows z,
                           Rows ba, std::span<const RowRun> runs) {
  static const SequenceState kFirst{{}, 0};
  CardDeltaArgs args;
  args.step = step_of(runs, out.x.rows);
  args.key_heads = config_.linear_num_key_heads;
  args.value_heads = config_.linear_num_value_heads;
  args.dk = config_.linear_key_head_dim;
  args.dv = config_.linear_value_head_dim;
  args.width = config_.linear_conv_kernel_dim;
  args.eps = static_cast<float>(config_.rms_norm_eps);
  args.conv_weight = w.conv;
  args.dt_bias = w.dt_bias;
  args.a = w.a;
  args.norm = w.norm;
  args.qkv = qkv.data;
  args.z = z.data;
  args.ba = ba.data;
  args.state = sequences_.state(kFirst, w.index);
  args.conv_state = sequences_.conv(kFirst, w.index);
  args.sequence_stride = sequences_.sequence_floats();
  args.convolved = convolved_.data;
  args.gates = delta_gates_.data;
  args.raw = delta_raw_.data;
  args.out = out.x.data;
  const bool is_decode =
      std::all_of(runs.begin(), runs.end(), [](const RowRun& run) { return run.rows == 1; });
  args.scratch = is_decode ? nullptr : delta_scratch_;
  kernels_.delta_net(stream_, args);
  quantise(out);
}

void CardDevice::route(const Routing& routing, Rows logits) {
  kernels_.route(stream_, routing.experts, routing.weights, logits.data, logits.rows, logits.width,
                 routing.k, config_.norm_topk_prob);
}

void CardDevice::set_picks(const Routing& routing, const int32_t* picks, Rows logits) {
  card_.copy(stream_, routing.experts, picks, routing.rows * routing.k * 4);
  kernels_.weigh(stream_, routing.weights, routing.experts, logits.data, logits.rows, logits.width,
                 routing.k);
}

}  // namespace hotset
