// Experts over slots (emulated, and on a card where there is one), residency and the mailbox
// (emulated): the outputs' bits are the CPU's whatever is resident, and no order of events between
// card and host changes one.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/kernels/cuda/random_experts.h"
#include "tests/kernels/cuda/test_card.h"
#include "tests/support/on_demand.h"

namespace hotset {
namespace {

const CardStream kNow;
const CardKernels& card = emulated_kernels();
const KernelTable& cpu = portable();

// How the pairs are given: a place for each, or a list of those that have one.
enum class Given { kPlaces, kList };

// Slots in no order, the pairs of each in whole tiles.
std::vector<CardListedPair> listed(const std::vector<int32_t>& places) {
  std::vector<CardListedPair> list;
  for (const int32_t slot : {2, 0, 3, 1}) {
    for (size_t p = 0; p < places.size(); ++p) {
      if (places[p] == slot) list.push_back({static_cast<int32_t>(p), slot});
    }
    while (list.size() % kCardTile != 0) list.emplace_back();
  }
  return list;
}

class CardExpertsTest : public CardTest {
 protected:
  void expect_cpus_outputs(RandomExperts& e, int64_t rows, int64_t k,
                           const std::vector<int32_t>& places, Given given = Given::kPlaces);
};

// Runs experts over pairs with the given places and expects the CPU's outputs of hits, and nothing
// written for misses.
void CardExpertsTest::expect_cpus_outputs(RandomExperts& e, int64_t rows, int64_t k,
                                          const std::vector<int32_t>& places, Given given) {
  const int64_t pairs = rows * k;
  const std::vector<float> x = random_floats(rows * e.hidden, 9);
  Quantised q(rows, e.hidden);
  for (int64_t r = 0; r < rows; ++r) {
    cpu.quantise_activations(x.data() + r * e.hidden, e.hidden, q.view(), r);
  }
  on_card([&](OnCard& on) {
    std::vector<float> gate_up(pairs * 2 * e.inner), inner_x(pairs * e.inner);
    std::vector<float> ordered_x(pairs * e.hidden), out(pairs * e.hidden, -77.0f);
    Quantised inner_q(pairs, e.inner), ordered_q(pairs, e.hidden);
    uint32_t not_finite = 0;
    CardExpertsArgs args;
    args.shape = e.shape;
    args.slots = on.put(e.slots(), e.bytes());
    args.slot_bytes = e.slot_bytes;
    std::vector<CardListedPair> list;
    if (given == Given::kList) {
      list = listed(places);
      args.list = on.put(list);
      args.listed = std::ssize(list);
    } else {
      args.places = on.put(places);
    }
    args.rows = rows;
    args.k = k;
    args.x = on.put(x);
    args.q = on.put(q.view(), rows);
    args.gate_up = on.put(gate_up);
    args.inner_q = on.put(inner_q.view(), pairs);
    args.inner_x = on.put(inner_x);
    args.ordered_q = on.put(ordered_q.view(), pairs);
    args.ordered_x = on.put(ordered_x);
    args.out = on.put(out);
    args.not_finite = on.put(&not_finite, 1);
    on.kernels().experts(on.stream(), args);
    on.finish();
    EXPECT_EQ(not_finite, 0u);
    for (int64_t p = 0; p < pairs; ++p) {
      std::vector<float> expected(static_cast<size_t>(e.hidden), -77.0f);
      if (places[p] >= 0) expected = e.output(places[p], x.data() + p / k * e.hidden);
      expect_same_bits(&out[p * e.hidden], expected.data(), e.hidden, "output");
      if (testing::Test::HasFatalFailure()) return;
    }
  });
}

TEST_P(CardExpertsTest, OutputsOfHitsHaveTheCpusBitsWhateverTheFormats) {
  struct Case {
    PackedFormat gate, up, down;
  };
  const auto same = [](const char* name) {
    return Case{format_named(name), format_named(name), format_named(name)};
  };
  std::vector<Case> cases;
  for (const NamedFormat& f : all_formats()) cases.push_back(same(f.name));
  cases.push_back({format_named("Q4_K"), format_named("Q4_K"), format_named("Q6_K")});
  cases.push_back({format_named("BF16"), format_named("Q8_0"), format_named("F32")});
  for (const bool both : {false, true}) {  // act-order
    cases.push_back({format_named("GPTQ_g32_f16", true), format_named("GPTQ_g32_f16", both),
                     format_named("GPTQ_g32_f16", both)});
  }
  for (Case& c : cases) {
    RandomExperts e(c.gate, c.up, c.down, 256, 512, 3);
    expect_cpus_outputs(e, 2, 2, {2, -1, 0, 2});
    if (HasFatalFailure()) return;
    expect_cpus_outputs(e, 3, 2, {2, -1, 0, 2, 2, 1}, Given::kList);
    if (HasFatalFailure()) return;
  }
}

TEST_P(CardExpertsTest, TilesOfAListMayBeFullOrNearlyEmpty) {
  const PackedFormat f = format_named("Q4_0"), g = format_named("BF16");
  for (const PackedFormat& format : {f, g}) {
    RandomExperts e(format, format, format, 96, 32, 4);
    expect_cpus_outputs(e, 1, 1, {3}, Given::kList);
    expect_cpus_outputs(e, 4, 1, {1, 1, 1, 1}, Given::kList);
    expect_cpus_outputs(e, 6, 2, {0, 2, 0, -1, 2, 0, 3, 0, -1, 0, 0, 2}, Given::kList);
  }
}

TEST_P(CardExpertsTest, AllHitsAndAllMissesAndOnePickAreNoSpecialCases) {
  const PackedFormat f = format_named("Q4_0");
  RandomExperts e(f, f, f, 96, 32, 4);
  expect_cpus_outputs(e, 1, 1, {3});
  expect_cpus_outputs(e, 1, 4, {0, 1, 2, 3});
  expect_cpus_outputs(e, 3, 2, std::vector<int32_t>(6, -1));
}

INSTANTIATE_TEST_SUITE_P(Cards, CardExpertsTest, kCards, card_name);

// Memory of both sides of a layer's picks.
struct Layer {
  int64_t rows, k, width, experts;
  std::vector<uint32_t> table;
  std::vector<int32_t> picks, places, log, request_picks;
  std::vector<float> x, request_x, outputs, replies, weights, shared, shared_gate;
  Quantised q, request_q;
  uint32_t misses = 77, step = 0, request_flag = 0, reply_flag = 0;
  int32_t request_layer = -1;
  CardErrors errors;
  CardSequence sequence;

  Layer(int64_t rows, int64_t k, int64_t width, int64_t experts)
      : rows(rows),
        k(k),
        width(width),
        experts(experts),
        table(experts, kCardAbsent),
        picks(rows * k),
        places(rows * k, 55),
        log(rows * k),
        request_picks(rows * k, 55),
        x(random_floats(rows * width, 1)),
        request_x(rows * width, -77.0f),
        outputs(random_floats(rows * k * width, 2)),
        replies(random_floats(rows * k * width, 3)),
        weights(random_floats(rows * k, 4)),
        shared(random_floats(rows * width, 5)),
        shared_gate(random_floats(rows, 6)),
        q(rows, width),
        request_q(rows, width),
        sequence{&step, 3, 2} {
    for (int64_t r = 0; r < rows; ++r) {
      cpu.quantise_activations(x.data() + r * width, width, q.view(), r);
    }
  }
  CardMailbox mailbox() {
    return {&request_flag,    &request_layer, request_picks.data(), request_q.view(),
            request_x.data(), &reply_flag,    replies.data()};
  }
  CardPostArgs post() {
    CardPostArgs a;
    a.picks = picks.data();
    a.table = table.data();
    a.rows = rows;
    a.k = k;
    a.width = width;
    a.x = x.data();
    a.q = q.view();
    a.places = places.data();
    a.misses = &misses;
    a.picks_log = log.data();
    a.mailbox = mailbox();
    a.sequence = sequence;
    return a;
  }
  CardCombineArgs combine(float* y) {
    CardCombineArgs a;
    a.x = y;
    a.rows = rows;
    a.width = width;
    a.k = k;
    a.weights = weights.data();
    a.places = places.data();
    a.outputs = outputs.data();
    a.shared = shared.data();
    a.shared_gate = shared_gate.data();
    a.misses = &misses;
    a.mailbox = mailbox();
    a.sequence = sequence;
    a.wait_ns = int64_t{60} * 1'000'000'000;
    a.errors = &errors;
    return a;
  }
};

TEST(CardPostTest, PicksAreLookedUpAndMissesPostedWithTheirRows) {
  in_thread_orders([] {
    Layer l(3, 4, 70, 9);
    l.step = 5;
    l.table[1] = 7;
    l.table[2] = 0;
    l.picks = {1, 2, 3, 4, 2, 1, 2, 1, 8, 1, 0, 3};  // the second row has hits only
    card.post(kNow, l.post());
    EXPECT_EQ(l.places, (std::vector<int32_t>{7, 0, -1, -1, 0, 7, 0, 7, -1, 7, -1, -1}));
    EXPECT_EQ(l.request_picks, (std::vector<int32_t>{-1, -1, 3, 4, -1, -1, -1, -1, 8, -1, 0, 3}));
    EXPECT_EQ(l.log, l.picks);
    EXPECT_EQ(l.misses, 5u);
    EXPECT_EQ(l.request_flag, 5u * 3 + 2 + 1);
    EXPECT_EQ(l.request_layer, 2);
    for (const int64_t r : {0, 2}) {
      EXPECT_EQ(std::memcmp(&l.request_x[r * 70], &l.x[r * 70], 70 * 4), 0);
      EXPECT_EQ(std::memcmp(&l.request_q.q[r * 96], &l.q.q[r * 96], 96), 0);
      EXPECT_EQ(std::memcmp(&l.request_q.scale[r * 3], &l.q.scale[r * 3], 3 * 4), 0);
      EXPECT_EQ(std::memcmp(&l.request_q.half_sum[r * 6], &l.q.half_sum[r * 6], 6 * 2), 0);
    }
    EXPECT_EQ(l.request_x[70], -77.0f) << "a row without a miss was sent";
  });
}

TEST(CardPostTest, ALayerOfHitsPostsNothing) {
  Layer l(2, 3, 64, 5);
  l.table.assign(5, 1);
  l.picks = {0, 1, 2, 3, 4, 0};
  card.post(kNow, l.post());
  EXPECT_EQ(l.misses, 0u);
  EXPECT_EQ(l.request_flag, 0u);
}

TEST(CardPostTest, EveryExpertMayBePickedByMoreRowsThanABlockHasThreads) {
  in_thread_orders([] {
    Layer l(3, 100, 32, 100);
    for (int64_t p = 0; p < 300; ++p) l.picks[p] = static_cast<int32_t>(p % 100);
    for (uint32_t e = 0; e < 100; e += 3) l.table[e] = e / 3;
    card.post(kNow, l.post());
    EXPECT_EQ(l.misses, 3u * 66);
    for (int64_t p = 0; p < 300; ++p) {
      const auto e = static_cast<int32_t>(p % 100);
      EXPECT_EQ(l.places[p], e % 3 == 0 ? e / 3 : -1);
      EXPECT_EQ(l.request_picks[p], e % 3 == 0 ? -1 : e);
    }
  });
}

TEST(CardPostTest, DeltasChangeTheTableAndNothingElse) {
  in_thread_orders([] {
    std::vector<uint32_t> table(3 * 5, kCardAbsent);
    const std::vector<CardResidencyDelta> deltas = {{0, 4, 1}, {2, 0, 9}, {1, 3, 2}, {0, 0, 3}};
    const uint32_t count = 3;
    card.apply_deltas(kNow, table.data(), 5, deltas.data(), &count, nullptr);
    std::vector<uint32_t> expected(3 * 5, kCardAbsent);
    expected[4] = 1;
    expected[10] = 9;
    expected[8] = 2;
    EXPECT_EQ(table, expected);
  });
}

TEST(CardPostTest, DeltasNameTheGenerationsOfTheirSlots) {
  in_thread_orders([] {
    std::vector<uint32_t> table(2 * 5), named = {7, 8, 9, 10};
    const std::vector<CardResidencyDelta> deltas = {
        {0, 4, 1, 1, 12}, {1, 3, kCardAbsent, 2, 0}, {0, 0, 3, 3, 13}};
    const uint32_t count = 2;
    card.apply_deltas(kNow, table.data(), 5, deltas.data(), &count, named.data());
    EXPECT_EQ(named, (std::vector<uint32_t>{7, 12, 0, 10}));
  });
}

TEST(CardCombineTest, OutputsAreSummedByRankAsTheCpuDoesWhereverTheyWereComputed) {
  for (const bool has_shared : {false, true}) {
    for (const int64_t k : {1, 3}) {
      Layer l(3, k, 70, 5);
      l.misses = 1;
      l.reply_flag = 3;
      for (int64_t p = 0; p < 3 * k; ++p) l.places[p] = p % 2 ? 4 : -1;
      std::vector<float> expected = l.x;
      for (int64_t r = 0; r < 3; ++r) {
        std::vector<float> y(70);
        for (int64_t p = r * k; p < (r + 1) * k; ++p) {
          cpu.add_scaled(y.data(), l.weights[p], (p % 2 ? l.outputs : l.replies).data() + p * 70,
                         70);
        }
        float power;
        const float minus_gate = -l.shared_gate[r];
        cpu.exp(&power, &minus_gate, 1);
        if (has_shared) {
          cpu.add_scaled(y.data(), 1.0f / (1.0f + power), l.shared.data() + r * 70, 70);
        }
        cpu.add(&expected[r * 70], y.data(), 70);
      }
      in_thread_orders([&] {
        std::vector<float> y = l.x;
        CardCombineArgs args = l.combine(y.data());
        if (!has_shared) args.shared = args.shared_gate = nullptr;
        card.combine(kNow, args);
        expect_same_bits(y.data(), expected.data(), 3 * 70, "sum");
      });
    }
  }
}

TEST(CardCombineTest, AReplyThatDoesNotComeEndsTheWaitAndIsNamed) {
  Layer l(1, 1, 32, 2);
  l.misses = 1;
  l.places = {-1};
  l.reply_flag = 2;  // an earlier layer's
  std::vector<float> y(32);
  CardCombineArgs args = l.combine(y.data());
  args.wait_ns = 1'000'000;
  card.combine(kNow, args);
  EXPECT_EQ(l.errors.expired_sequence, 3u);
}

TEST(CardCombineTest, NumbersThatWrapAroundStillGrow) {
  Layer l(1, 1, 32, 2);
  l.step = 0xffffffffu / 3;  // this layer's number is 2 after the wrap
  l.misses = 1;
  l.places = {-1};
  std::vector<float> y(32);
  CardCombineArgs args = l.combine(y.data());
  args.wait_ns = 1'000'000;
  l.reply_flag = 0xfffffff0u;
  card.combine(kNow, args);
  EXPECT_EQ(l.errors.expired_sequence, l.step * 3 + 3) << "an old reply was taken";
  l.errors = {};
  l.reply_flag = l.step * 3 + 3;
  card.combine(kNow, args);
  EXPECT_EQ(l.errors.expired_sequence, 0u);
}

// The protocol of mailbox.cuh: the host's thread answers what is posted, each side with pauses by
// chance. Every layer's outputs must be those of its own request.
void run_protocol(int layers) {
  constexpr int64_t kWidth = 32;
  Layer boxes[2] = {Layer(1, 2, kWidth, 4), Layer(1, 2, kWidth, 4)};
  uint32_t step = 0;
  for (Layer& box : boxes) {
    box.table = {0, kCardAbsent, kCardAbsent, 1};
    box.sequence = {&step, 1, 0};
    box.weights = {1.0f, 1.0f};
  }
  std::atomic<bool> is_done = false;
  std::thread host([&] {
    std::mt19937 random(3);
    uint32_t answered[2] = {0, 0};
    while (!is_done) {
      for (int b = 0; b < 2; ++b) {
        const uint32_t number = std::atomic_ref(boxes[b].request_flag).load();
        if (number == answered[b]) continue;
        answered[b] = number;
        if (random() % 64 == 0) std::this_thread::yield();
        for (int64_t p = 0; p < 2; ++p) {
          if (boxes[b].request_picks[p] < 0) continue;
          for (int64_t j = 0; j < kWidth; ++j) {
            boxes[b].replies[p * kWidth + j] = boxes[b].request_x[j] + 0.5f;
          }
        }
        std::atomic_ref(boxes[b].reply_flag).store(number);
      }
      std::this_thread::yield();
    }
  });
  std::mt19937 random(4);
  int wrong = 0;
  for (int i = 0; i < layers; ++i, ++step) {
    Layer& box = boxes[i % 2];
    for (int64_t j = 0; j < kWidth; ++j) box.x[j] = static_cast<float>(i % 4096);
    for (int32_t& pick : box.picks) pick = static_cast<int32_t>(random() % 4);
    for (float& v : box.outputs) v = static_cast<float>(i % 4096) + 0.5f;
    card.post(kNow, box.post());
    if (random() % 64 == 0) std::this_thread::yield();
    std::vector<float> y(kWidth);
    CardCombineArgs args = box.combine(y.data());
    args.shared = nullptr;
    card.combine(kNow, args);
    for (const float v : y) wrong += v != 2.0f * (static_cast<float>(i % 4096) + 0.5f);
  }
  is_done = true;
  host.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(boxes[0].errors.expired_sequence + boxes[1].errors.expired_sequence, 0u);
}

TEST(CardMailboxTest, EveryLayerGetsTheAnswersToItsOwnRequest) {
  run_protocol(1000);
}

TEST(CardMailboxLongTest, AHundredThousandLayersGetTheAnswersToTheirOwnRequests) {
  HOTSET_ON_DEMAND("HOTSET_LONG");
  run_protocol(100'000);
}

}  // namespace
}  // namespace hotset
