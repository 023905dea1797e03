#include "runtime/card/card_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "kernels/check.h"
#include "runtime/card/spill_probe.h"
#include "runtime/host/packed_rows.h"

namespace hotset {

namespace {

int64_t largest_slot(const SlotPlan& plan) {
  int64_t bytes = 0;
  for (const SlotPlan::Class& c : plan.classes) bytes = std::max(bytes, c.slot_bytes);
  return bytes;
}

// Whether the experts of some layer are given float rows, besides quantised ones.
bool needs_floats(const ExpertShape& shape) {
  return shape.gate.format.is_float() || shape.up.format.is_float() ||
         shape.gate.format.has_order || shape.up.format.has_order;
}

}  // namespace

CardExperts::CardExperts(const ModelConfig& c, CardRuntime& card, const CardKernels& kernels,
                         CardStream stream, HostExperts& host, ExpertCache& cache,
                         Recorder& recorder, const CardExpertsOptions& options)
    : card_(card),
      kernels_(kernels),
      stream_(stream),
      host_(host),
      cache_(cache),
      layers_(c.num_hidden_layers),
      experts_(c.num_experts),
      k_(c.num_experts_per_tok),
      width_(c.hidden_size),
      rows_max_(options.rows_max),
      wait_ns_(static_cast<int64_t>(options.wait_s * 1e9)),
      workspace_(card),
      tier_(options.slots, static_cast<int32_t>(layers_), static_cast<int32_t>(experts_),
            options.policy, options.tier),
      resizing_(card),
      table_(workspace_.take<uint32_t>(layers_ * experts_)),
      named_(kernels.checks_slots ? workspace_.take<uint32_t>(layers_ * experts_) : nullptr),
      held_(kernels.checks_slots ? workspace_.take<uint32_t>(layers_ * experts_) : nullptr),
      deltas_(workspace_.take_pinned<CardResidencyDelta>(tier_.deltas_max())),
      delta_count_(workspace_.take_pinned<uint32_t>(1)),
      step_(workspace_.take<uint32_t>(1)),
      step_next_(workspace_.take_pinned<uint32_t>(1)),
      errors_(workspace_.take<CardErrors>(1)),
      errors_seen_(workspace_.take_pinned<CardErrors>(1)),
      picks_log_(workspace_.take<int32_t>(layers_ * rows_max_ * k_)),
      picks_seen_(workspace_.take_pinned<int32_t>(layers_ * rows_max_ * k_)),
      places_(workspace_.take<int32_t>(rows_max_ * k_)),
      misses_(workspace_.take<uint32_t>(1)),
      prompt_table_next_(workspace_.take_pinned<uint32_t>(experts_)),
      prompt_table_(workspace_.take<uint32_t>(experts_)),
      prompt_list_next_(
          workspace_.take_pinned<CardListedPair>(PromptPlan::list_max(rows_max_ * k_, experts_))),
      prompt_list_(workspace_.take<CardListedPair>(PromptPlan::list_max(rows_max_ * k_, experts_))),
      prompt_(
          {prompt_list_next_, static_cast<size_t>(PromptPlan::list_max(rows_max_ * k_, experts_))},
          {prompt_table_next_, static_cast<size_t>(experts_)}),
      ring_(card, stream, cache, recorder, static_cast<int32_t>(experts_),
            largest_slot(options.slots), options.prompts),
      best_rank_(experts_) {
  const int64_t pairs = rows_max_ * k_, inner = c.moe_intermediate_size;
  for (const SlotPlan::Class& size_class : options.slots.classes) {
    slots_.emplace_back(card, size_class.experts * size_class.slot_bytes, "expert slots");
    slots_.back().commit(size_class.slots * size_class.slot_bytes);
  }
  bool has_floats = false, has_order = false;
  for (int32_t layer = 0; layer < layers_; ++layer) {
    const ExpertShape& shape = host.shape(layer);
    has_floats |= needs_floats(shape);
    has_order |= shape.gate.format.has_order || shape.up.format.has_order;
  }
  args_.gate_up = workspace_.take<float>(pairs * 2 * inner);
  args_.inner_q = workspace_.quantised(pairs, inner);
  args_.inner_x = workspace_.take<float>(pairs * inner);
  if (has_order) {
    args_.ordered_q = workspace_.quantised(pairs, width_);
    args_.ordered_x = workspace_.take<float>(pairs * width_);
  }
  args_.out = workspace_.take<float>(pairs * width_);
  args_.places = places_;
  args_.not_finite = not_finite();
  mailboxes_ = make_mailboxes(has_floats);
  *step_next_ = 0;
  static_assert(kCardAbsent == 0xffffffffu);
  const int64_t table_bytes = layers_ * experts_ * static_cast<int64_t>(sizeof(uint32_t));
  card.fill(stream, table_, 0xFF, table_bytes);
  if (kernels.checks_slots) {
    card.fill(stream, named_, 0, table_bytes);
    card.fill(stream, held_, 0xFF, table_bytes);
  }
  picks_.reserve(experts_);
  server_ = std::make_unique<MissServer>(static_cast<MissComputer&>(*this), mailboxes_, k_, width_);
  copier_ = std::make_unique<
      CardCopier>(card, tier_, cache, recorder, [this](const CardCopy& copy) {
    const int32_t size_class = tier_.class_of(copy.id.layer);
    return CardCopier::Target{slot_address(size_class, copy.slot), held_at(size_class, copy.slot)};
  });
}

CardExperts::~CardExperts() = default;

std::string CardExperts::take_failure() {
  if (std::string why = copier_->take_failure(); !why.empty()) {
    return "nothing is copied to the card any more, answers go on with what is there: " + why;
  }
  if (std::string why = ring_.take_failure(); !why.empty()) {
    return "prompts copy no experts to the card from here on, the CPU computes what is not "
           "there: " +
           why;
  }
  return "";
}

// A cache line for each flag: one side polls it.
MissServer::Mailboxes CardExperts::make_mailboxes(bool needs_floats) {
  constexpr int64_t kLine = 64 / sizeof(uint32_t);
  MissServer::Mailboxes mailboxes;
  for (CardMailbox& m : mailboxes) {
    m.request_flag = workspace_.take_pinned<uint32_t>(kLine);
    m.reply_flag = workspace_.take_pinned<uint32_t>(kLine);
    *m.request_flag = *m.reply_flag = 0;
    m.layer = workspace_.take_pinned<int32_t>(1);
    m.picks = workspace_.take_pinned<int32_t>(rows_max_ * k_);
    m.q = workspace_.quantised_pinned(rows_max_, width_);
    if (needs_floats) m.x = workspace_.take_pinned<float>(rows_max_ * width_);
    m.outputs = workspace_.take_pinned<float>(rows_max_ * k_ * width_);
  }
  return mailboxes;
}

std::byte* CardExperts::slot_address(int32_t size_class, SlotId slot) const {
  return slots_[size_class].data() + slot * tier_.slot_bytes(size_class);
}

uint32_t* CardExperts::held_at(int32_t size_class, SlotId slot) const {
  return held_ == nullptr ? nullptr : held_ + tier_.slot_index(size_class, slot);
}

void CardExperts::move_generation(const CardMove& move) {
  if (held_ == nullptr) return;
  card_.copy(resizing_.stream, held_at(move.size_class, move.to),
             held_at(move.size_class, move.from), sizeof(uint32_t));
}

SlotPlan CardExperts::plan_slots(int64_t bytes) const {
  std::vector<int64_t> expert_bytes(layers_);
  for (int32_t layer = 0; layer < layers_; ++layer) {
    expert_bytes[layer] = tier_.slot_bytes(tier_.class_of(layer));
  }
  return hotset::plan_slots(expert_bytes, static_cast<int32_t>(experts_), bytes, 0);
}

int64_t CardExperts::slow_bytes() const {
  int64_t bytes = 0;
  for (const CardReservation& slots : slots_) bytes += slow_bytes_of(card_, stream_, slots);
  return bytes;
}

// Memory comes before the slots that lie in it, and goes after those that do not any more.
bool CardExperts::resize(SlotPlan plan) {
  bool has_other_launches = false;
  const auto commit = [&](const SlotPlan& to, bool grows) {
    for (size_t i = 0; i < slots_.size(); ++i) {
      const int64_t bytes = to.classes[i].slots * to.classes[i].slot_bytes;
      has_other_launches |= (bytes > 0) != (slots_[i].bytes() > 0);
      if (grows == (bytes > slots_[i].bytes())) slots_[i].commit(bytes);
    }
  };
  try {
    commit(plan, true);
  } catch (...) {
    commit(tier_.plan(), false);
    throw;
  }
  is_half_resized_ = true;
  for (const CardMove& move : tier_.resize(plan)) {
    card_.copy(resizing_.stream, slot_address(move.size_class, move.to),
               slot_address(move.size_class, move.from), tier_.slot_bytes(move.size_class));
    move_generation(move);
  }
  const std::span<const SlotId> table = tier_.table();
  card_.copy(resizing_.stream, table_, table.data(), std::ssize(table) * 4);
  if (named_ != nullptr) {
    card_.copy(resizing_.stream, named_, tier_.generations().data(), std::ssize(table) * 4);
  }
  card_.synchronise(resizing_.stream);
  is_half_resized_ = false;
  commit(plan, false);
  return has_other_launches;
}

// The host writes the deltas and the step's number before it launches what reads them; it writes
// them again when the step has ended on the card.
void CardExperts::begin_step(int64_t rows, StepKind kind) {
  if (is_half_resized_) throw CardError("the card failed while its slots were resized", true);
  rows_ = rows;
  kind_ = kind;
  tokens_ += rows;
  server_->begin_step(rows, kind, tokens_);
  const std::span<const CardResidencyDelta> deltas = tier_.begin_step();
  std::copy(deltas.begin(), deltas.end(), deltas_);
  *delta_count_ = static_cast<uint32_t>(deltas.size());
  ++*step_next_;
  card_.copy(stream_, step_, step_next_, sizeof *step_);
  card_.fill(stream_, errors_, 0, sizeof *errors_);
  kernels_.apply_deltas(stream_, table_, experts_, deltas_, delta_count_, named_);
}

void CardExperts::begin(int32_t layer, const Routing& routing, const Activations& in) {
  layer_ = layer;
  in_ = in;
  const bool is_prompt = kind_ == StepKind::kPrompt;
  if (is_prompt) plan_prompt(layer, routing);
  CardPostArgs args;
  args.picks = routing.experts;
  args.table = is_prompt ? prompt_table_ : table_ + layer * experts_;
  args.rows = routing.rows;
  args.k = k_;
  args.width = width_;
  args.x = in.x.data;
  args.q = in.q;
  args.places = places_;
  args.misses = misses_;
  args.picks_log = is_prompt ? nullptr : picks_log_ + layer * rows_max_ * k_;
  args.mailbox = mailbox(layer);
  args.sequence = sequence(layer);
  kernels_.post(stream_, args);
}

// A wait of the host for each layer is short beside what a prompt's layer takes. It is also why the
// pinned plan may be written again: what read the last layer's has ended on the card.
void CardExperts::plan_prompt(int32_t layer, const Routing& routing) {
  int32_t* const picks = picks_seen_ + layer * rows_max_ * k_;
  const int64_t pairs = routing.rows * k_;
  card_.copy(stream_, picks, routing.experts, pairs * static_cast<int64_t>(sizeof *picks));
  card_.synchronise(stream_);
  ring_.tell_watchers();
  prompt_.make(
      {picks, static_cast<size_t>(pairs)},
      tier_.table().subspan(static_cast<size_t>(layer * experts_), static_cast<size_t>(experts_)),
      ring_.break_even(), ring_.slots(), [this, layer](int32_t expert) {
        return ring_.hold({layer, expert});
      });
  card_.copy(stream_, prompt_table_, prompt_table_next_,
             std::ssize(prompt_.table()) * static_cast<int64_t>(sizeof(uint32_t)));
  card_.copy(stream_, prompt_list_, prompt_list_next_,
             std::ssize(prompt_.list()) * static_cast<int64_t>(sizeof(CardListedPair)));
  note_copied(layer, picks, routing.rows);
}

// The host's cache hears of those that it only had to hold as of those that the CPU computes.
void CardExperts::note_copied(int32_t layer, const int32_t* picks, int64_t rows) {
  if (prompt_.copied().empty()) return;
  const SlotId* const slots = tier_.table().data() + layer * experts_;
  for (int64_t r = std::max<int64_t>(0, rows - kPromptRowsNoted); r < rows; ++r) {
    picks_.clear();
    for (int32_t i = 0; i < k_; ++i) {
      const int32_t expert = picks[r * k_ + i];
      const bool is_copied = slots[expert] < 0 && prompt_.table()[expert] != kCardAbsent;
      if (is_copied) picks_.push_back({expert, i});
    }
    if (!picks_.empty()) cache_.note_use(layer, picks_, tokens_);
  }
}

void CardExperts::run() {
  const int32_t size_class = tier_.class_of(layer_);
  const bool is_prompt = kind_ == StepKind::kPrompt;
  if (!is_prompt && slots_[size_class].bytes() == 0) return;  // all are misses
  CardExpertsArgs args = args_;
  args.shape = host_.shape(layer_);
  args.slots = slots_[size_class].data();
  args.slot_bytes = tier_.slot_bytes(size_class);
  args.rows = rows_;
  args.k = k_;
  args.x = in_.x.data;
  args.q = in_.q;
  if (held_ != nullptr) args.check = {named_, held_, tier_.slot_index(size_class, 0), errors_};
  if (is_prompt) return run_prompt(args);
  kernels_.experts(stream_, args);
}

void CardExperts::run_prompt(CardExpertsArgs args) {
  const auto compute = [&](int64_t begin, int64_t end) {
    args.list = prompt_list_ + begin;
    args.listed = end - begin;
    if (begin < end) kernels_.experts(stream_, args);
  };
  const int64_t bytes = args.slot_bytes;
  compute(0, prompt_.hits_end());
  args.check = {};  // the ring's parts are in no table
  args.slots = ring_.data();
  args.slot_bytes = ring_.slot_bytes();
  ring_.run(bytes, prompt_.copied(), compute);
}

void CardExperts::combine(Rows x, const Routing& routing, Rows shared, Rows shared_gate) {
  CardCombineArgs args;
  args.x = x.data;
  args.rows = x.rows;
  args.width = x.width;
  args.k = k_;
  args.weights = routing.weights;
  args.places = places_;
  args.outputs = args_.out;
  args.shared = shared.data;
  args.shared_gate = shared_gate.data;
  args.misses = misses_;
  args.mailbox = mailbox(layer_);
  args.sequence = sequence(layer_);
  args.wait_ns = wait_ns_;
  args.errors = errors_;
  kernels_.combine(stream_, args);
}

void CardExperts::end_step() {
  for (int64_t layer = 0; kind_ == StepKind::kDecode && layer < layers_; ++layer) {
    const int64_t at = layer * rows_max_ * k_;
    card_.copy(stream_, picks_seen_ + at, picks_log_ + at,
               rows_ * k_ * static_cast<int64_t>(sizeof(int32_t)));
  }
  card_.copy(stream_, errors_seen_, errors_, sizeof *errors_);
}

// Before anything else that went wrong in the step: it may come of such a slot's bytes.
void CardExperts::check_slots() const {
  const CardErrors& seen = *errors_seen_;
  HOTSET_CHECK(seen.wrong_slot == 0,
               fmt::format("slot {} of the card was read with generation {} in it, where the table "
                           "names generation {}",
                           seen.wrong_slot - 1, seen.held, seen.named)
                   .c_str());
}

void CardExperts::finish_step() {
  check_slots();
  server_->end_step();
  if (errors_seen_->expired_sequence != 0) {
    const uint32_t layer = (errors_seen_->expired_sequence - 1) % static_cast<uint32_t>(layers_);
    throw Error(fmt::format(
        "the step failed: the host did not answer the card's misses of layer {} (request {}) "
        "within {} s",
        layer, errors_seen_->expired_sequence, static_cast<double>(wait_ns_) * 1e-9));
  }
  if (errors_seen_->not_finite != 0) throw_not_finite();
  ring_.tell_watchers();
  tell_tier();
  tier_.end_step();
}

// A change of the host's cache may wait for what the ring holds, and the misses for that change.
void CardExperts::abandon_step() noexcept {
  ring_.cancel();
  try {
    server_->end_step();
  } catch (...) {  // the step has an error already
  }
  tier_.end_step();
}

// Distinct picks of some rows with their best ranks.
void CardExperts::gather(const int32_t* picks, int64_t rows) {
  picks_.clear();
  std::fill(best_rank_.begin(), best_rank_.end(), static_cast<int32_t>(k_));
  for (int64_t i = 0; i < rows * k_; ++i) {
    int32_t& best = best_rank_[picks[i]];
    best = std::min(best, static_cast<int32_t>(i % k_));
  }
  for (int32_t e = 0; e < experts_; ++e) {
    if (best_rank_[e] < k_) picks_.push_back({e, best_rank_[e]});
  }
}

// A prompt leaves the slots as they are; the policy hears of its last rows, one after another,
// since decoding uses much of what they have used.
void CardExperts::tell_tier() {
  for (int32_t layer = 0; layer < layers_; ++layer) {
    const int32_t* const picks = picks_seen_ + layer * rows_max_ * k_;
    gather(picks, rows_);
    if (kind_ == StepKind::kDecode) {
      tier_.use(layer, picks_, tokens_);
      continue;
    }
    tier_.count(layer, picks_);
    for (int64_t r = std::max<int64_t>(0, rows_ - kPromptRowsNoted); r < rows_; ++r) {
      gather(picks + r * k_, 1);
      tier_.note_use(layer, picks_, tokens_);
    }
  }
}

void CardExperts::compute(int32_t layer, const Routing& picks, const Activations& in, StepKind kind,
                          int64_t now, float* outputs) {
  const auto begin = std::chrono::steady_clock::now();
  host_.begin(layer, picks, kind, now);
  host_.run(in);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  int64_t pairs = 0;
  for (int64_t p = 0; p < picks.rows * picks.k; ++p) {
    if (picks.experts[p] < 0) continue;
    ++pairs;
    std::memcpy(outputs + p * width_, host_.output(p / picks.k, p % picks.k),
                static_cast<size_t>(width_) * sizeof(float));
  }
  if (kind == StepKind::kDecode) {
    tier_.add_misses(host_.experts(), seconds.count());
  } else {
    ring_.add_computed(host_.experts(), pairs, seconds.count());
  }
}

}  // namespace hotset
