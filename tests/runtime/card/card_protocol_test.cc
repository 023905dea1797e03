// The mailbox and the residency together, as CardExperts uses them: the kernels that change the
// table, look picks up, post and combine, on a stream of the emulated card, in order and lazy; the
// server of misses, the tier and the copies' thread on the host, all late at random. In the
// experts' place on both sides is one number, so that many layers go by. (The host half alone is
// seen by TSan: miss_server_test.cc, hold_resident_test.cc.)
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "runtime/card/card_copier.h"
#include "runtime/card/card_workspace.h"
#include "runtime/card/miss_server.h"
#include "tests/cache/fake_source.h"
#include "tests/support/card_runtime.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

constexpr int32_t kLayers = 5, kExperts = 16, kPicks = 4, kSlots = 7;  // of a size
constexpr int64_t kWidth = 32;

// What an expert computes.
float output_of(int32_t layer, int32_t expert) {
  return static_cast<float>(layer * 1000 + expert);
}

// Of one thread.
class Delays {
 public:
  explicit Delays(unsigned seed) : random_(seed) {}
  void pause() {
    if (random_() % 64 == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(random_() % 50));
    }
  }

 private:
  std::minstd_rand random_;
};

class LateRuntime : public WatchedRuntime {
 public:
  using WatchedRuntime::WatchedRuntime;

 private:
  void before(const std::string&, CardStream stream) override {
    if (is_copies(stream)) delays_.pause();
  }
  Delays delays_{5};
};

class Misses : public MissComputer {
 public:
  void compute(int32_t layer, const Routing& picks, const Activations&, StepKind, int64_t,
               float* outputs) override {
    delays_.pause();
    for (int64_t p = 0; p < kPicks; ++p) {
      if (picks.experts[p] < 0) continue;
      std::fill_n(outputs + p * kWidth, kWidth, output_of(layer, picks.experts[p]));
    }
  }

 private:
  Delays delays_{6};
};

SlotPlan slots_of_card(const FakeSource& source) {
  SlotPlan plan = plan_slots(source, 0, 0);
  for (SlotPlan::Class& c : plan.classes) {
    c.slots = kSlots;
    plan.slot_bytes_total += c.slots * c.slot_bytes;
  }
  return plan;
}

class Protocol {
 public:
  explicit Protocol(FakeOrder order) : card_({.order = order, .seed = 9}) {
    while (cache_.fill_one()) {
    }
    card_.fill(steps_.stream, table_, 0xFF, kLayers * kExperts * 4);
    card_.fill(steps_.stream, named_, 0, kLayers * kExperts * 4);
    card_.fill(steps_.stream, held_, 0xFF, kLayers * kExperts * 4);
    std::fill_n(weights_, kPicks, 1.0f);
    *step_next_ = 0;
    for (const SlotPlan::Class& c : tier_.plan().classes) {
      slots_.push_back(workspace_.take<std::byte>(c.slots * c.slot_bytes));
    }
    copier_ = std::make_unique<CardCopier>(card_, tier_, cache_, recorder_, [this](auto& copy) {
      const int32_t c = tier_.class_of(copy.id.layer);
      return CardCopier::Target{slots_[c] + copy.slot * tier_.slot_bytes(c),
                                held_ + tier_.slot_index(c, copy.slot)};
    });
  }

  // Layers whose outputs were not their picks'.
  int run(int64_t steps) {
    int wrong = 0;
    for (now_ = 1; now_ <= steps; ++now_) wrong += step();
    tier_.verify();
    EXPECT_EQ(errors_seen_->expired_sequence, 0U);
    EXPECT_GT(tier_.stats().hits, steps) << "of " << tier_.stats().misses << " misses";
    EXPECT_GT(tier_.stats().misses, steps);
    EXPECT_GT(tier_.stats().evictions, steps / 50);
    return wrong;
  }

 private:
  int step();
  void layer(int32_t layer);
  void compute_hits(int32_t layer);
  void pick(int32_t layer);
  MissServer::Mailboxes make_mailboxes();

  LateRuntime card_;
  const CardKernels& kernels_ = emulated_kernels();
  OwnStream steps_{card_};
  CardWorkspace workspace_{card_};
  FakeSource source_{kLayers, kExperts};
  ThreadPool pool_{1};
  ExpertCache cache_{source_,
                     plan_slots(source_, 1 << 20, kPicks),
                     pool_,
                     policy_of(PolicyKind::kLru),
                     {.floor = kPicks, .reading_threads = 1, .reads = 8}};
  Recorder recorder_;
  CardTier tier_{slots_of_card(source_), kLayers, kExperts, policy_of(PolicyKind::kLru),
                 CardTierOptions{4, 0}};
  uint32_t* table_ = workspace_.take<uint32_t>(kLayers * kExperts);
  uint32_t* named_ = workspace_.take<uint32_t>(kLayers * kExperts);
  uint32_t* held_ = workspace_.take<uint32_t>(kLayers * kExperts);
  CardResidencyDelta* deltas_ = workspace_.take_pinned<CardResidencyDelta>(tier_.deltas_max());
  uint32_t* delta_count_ = workspace_.take_pinned<uint32_t>(1);
  uint32_t* step_ = workspace_.take<uint32_t>(1);
  uint32_t* step_next_ = workspace_.take_pinned<uint32_t>(1);
  CardErrors* errors_ = workspace_.take<CardErrors>(1);
  CardErrors* errors_seen_ = workspace_.take_pinned<CardErrors>(1);
  int32_t* picks_ = workspace_.take_pinned<int32_t>(kLayers * kPicks);
  int32_t* places_ = workspace_.take<int32_t>(kPicks);
  uint32_t* misses_ = workspace_.take<uint32_t>(1);
  float* weights_ = workspace_.take_pinned<float>(kPicks);
  float* outputs_ = workspace_.take<float>(kPicks * kWidth);
  float* x_ = workspace_.take<float>(kLayers * kWidth);
  float* x_seen_ = workspace_.take_pinned<float>(kLayers * kWidth);
  QuantisedRows q_ = workspace_.quantised_pinned(1, kWidth);
  std::vector<std::byte*> slots_;
  MissServer::Mailboxes mailboxes_ = make_mailboxes();
  Misses computer_;
  MissServer server_{computer_, mailboxes_, kPicks, kWidth};
  std::unique_ptr<CardCopier> copier_;
  std::minstd_rand random_{7};
  Delays delays_{8};
  int64_t now_ = 0;
};

MissServer::Mailboxes Protocol::make_mailboxes() {
  MissServer::Mailboxes mailboxes;
  for (CardMailbox& m : mailboxes) {
    m.request_flag = workspace_.take_pinned<uint32_t>(16);
    m.reply_flag = workspace_.take_pinned<uint32_t>(16);
    *m.request_flag = *m.reply_flag = 0;
    m.layer = workspace_.take_pinned<int32_t>(1);
    m.picks = workspace_.take_pinned<int32_t>(kPicks);
    m.q = workspace_.quantised_pinned(1, kWidth);
    m.outputs = workspace_.take_pinned<float>(kPicks * kWidth);
  }
  return mailboxes;
}

// Some experts more often than others, and whole layers of hits now and then.
void Protocol::pick(int32_t layer) {
  std::vector<int32_t> experts(kExperts);
  for (int32_t e = 0; e < kExperts; ++e) experts[e] = e;
  const int32_t of = random_() % 4 == 0 ? kExperts : kPicks + 1;
  std::shuffle(experts.begin(), experts.begin() + of, random_);
  std::copy_n(experts.begin(), kPicks, picks_ + layer * kPicks);
}

// In the experts' place: a hit's output is what lies in the slot.
void Protocol::compute_hits(int32_t layer) {
  const int32_t c = tier_.class_of(layer);
  const std::byte* const slots = slots_[c];
  const int64_t bytes = tier_.slot_bytes(c);
  const int32_t first = tier_.slot_index(c, 0);
  fake_enqueue(steps_.stream, [=, this] {
    delays_.pause();
    for (int64_t p = 0; p < kPicks; ++p) {
      const int32_t place = places_[p];
      if (place < 0) continue;
      int32_t name;
      std::memcpy(&name, slots + (place + 1) * bytes - 4, 4);
      const bool is_right = named_[first + place] == held_[first + place];
      std::fill_n(outputs_ + p * kWidth, kWidth, is_right ? static_cast<float>(name) : -1.0f);
    }
  });
}

void Protocol::layer(int32_t layer) {
  CardPostArgs post;
  post.picks = picks_ + layer * kPicks;
  post.table = table_ + layer * kExperts;
  post.rows = 1;
  post.k = kPicks;
  post.width = kWidth;
  post.q = q_;
  post.places = places_;
  post.misses = misses_;
  post.mailbox = mailboxes_[layer % 2];
  post.sequence = {step_, kLayers, layer};
  kernels_.post(steps_.stream, post);
  compute_hits(layer);
  CardCombineArgs combine;
  combine.x = x_ + layer * kWidth;
  combine.rows = 1;
  combine.width = kWidth;
  combine.k = kPicks;
  combine.weights = weights_;
  combine.places = places_;
  combine.outputs = outputs_;
  combine.misses = misses_;
  combine.mailbox = post.mailbox;
  combine.sequence = post.sequence;
  combine.wait_ns = int64_t{60} * 1'000'000'000;
  combine.errors = errors_;
  kernels_.combine(steps_.stream, combine);
}

int Protocol::step() {
  server_.begin_step(1, StepKind::kDecode, now_);
  const std::span<const CardResidencyDelta> deltas = tier_.begin_step();
  std::copy(deltas.begin(), deltas.end(), deltas_);
  *delta_count_ = static_cast<uint32_t>(deltas.size());
  ++*step_next_;
  for (int32_t l = 0; l < kLayers; ++l) pick(l);
  card_.copy(steps_.stream, step_, step_next_, sizeof *step_);
  card_.fill(steps_.stream, errors_, 0, sizeof *errors_);
  card_.fill(steps_.stream, x_, 0, kLayers * kWidth * 4);
  kernels_.apply_deltas(steps_.stream, table_, kExperts, deltas_, delta_count_, named_);
  for (int32_t l = 0; l < kLayers; ++l) layer(l);
  card_.copy(steps_.stream, x_seen_, x_, kLayers * kWidth * 4);
  card_.copy(steps_.stream, errors_seen_, errors_, sizeof *errors_);
  card_.synchronise(steps_.stream);
  server_.end_step();
  int wrong = 0;
  for (int32_t l = 0; l < kLayers; ++l) {
    float expected = 0;
    std::vector<Pick> picks;
    for (int32_t p = 0; p < kPicks; ++p) {
      picks.push_back({picks_[l * kPicks + p], p});
      expected += output_of(l, picks.back().expert);
    }
    const float* const x = x_seen_ + l * kWidth;
    wrong += std::all_of(x, x + kWidth, [&](float v) { return v == expected; }) ? 0 : 1;
    tier_.use(l, picks, now_);
  }
  tier_.end_step();
  return wrong;
}

void run_layers(int64_t layers) {
  for (const FakeOrder order : {FakeOrder::kInOrder, FakeOrder::kLazy}) {
    EXPECT_EQ(Protocol(order).run(layers / kLayers), 0) << static_cast<int>(order);
  }
}

TEST(CardProtocolTest, EveryLayerGetsItsPicksOutputsHoweverLateAnybodyIs) {
  HOTSET_NOT_UNDER_TSAN();
  run_layers(2000);
}

TEST(CardProtocolLongTest, AHundredThousandLayersGetTheirPicksOutputs) {
  HOTSET_ON_DEMAND("HOTSET_LONG");
  HOTSET_NOT_UNDER_TSAN();
  run_layers(100'000);
}

}  // namespace
}  // namespace hotset::test
