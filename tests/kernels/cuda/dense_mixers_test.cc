// The card's attention and gated delta net against the CPU's kernels put together as runtime/host/
// does: every bit, for decoding and prompts. On the emulated card in three thread orders, which
// proves the kernels' logic and nothing of nvcc's code; on a real one where there is one.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "kernels/cpu/kernel_table.h"
#include "kernels/simd/log_one_plus.h"
#include "tests/kernels/cuda/dense_cases.h"
#include "tests/kernels/cuda/test_card.h"

namespace hotset::test {
namespace {

const KernelTable& cpu() {
  return best_kernel_table();
}

struct Attention {
  int64_t heads, kv_heads, dim, half;
  bool gated, kv_f16;
};

// Sequences of 4 blocks each; what they held before is random.
constexpr int64_t kBlocksEach = 4, kLayers = 2, kLayer = 1, kSequences = 3;

// Keys and values of all sequences: a block is [layers][2][kv_heads][256][dim].
struct Kv {
  explicit Kv(const Attention& c)
      : element(c.kv_f16 ? 2 : 4), plane(kKvBlockPositions * c.dim), kv_heads(c.kv_heads) {
    const int64_t elements = kLayers * 2 * kv_heads * plane;  // of a block
    block_bytes = elements * element;
    bytes.resize(static_cast<size_t>(kSequences * kBlocksEach * block_bytes));
    const std::vector<float> values = random_floats(kSequences * kBlocksEach * elements, 28);
    if (c.kv_f16) {
      cpu().to_half(reinterpret_cast<uint16_t*>(bytes.data()), values.data(), std::ssize(values));
    } else {
      std::memcpy(bytes.data(), values.data(), values.size() * sizeof(float));
    }
  }
  // Where each block lies, of bytes that begin at `first`: in no order.
  std::vector<std::byte*> blocks(std::byte* first) const {
    std::vector<std::byte*> out;
    for (int64_t b = 0; b < kSequences * kBlocksEach; ++b) out.push_back(first + place(b));
    return out;
  }
  int64_t place(int64_t b) const { return (b * 5 + 3) % (kSequences * kBlocksEach) * block_bytes; }
  std::byte* at(int64_t sequence, int64_t block, int64_t head, int64_t values) {
    return bytes.data() + place(sequence * kBlocksEach + block) +
           ((kLayer * 2 + values) * kv_heads + head) * plane * element;
  }

  int64_t element, plane, kv_heads, block_bytes;
  std::vector<std::byte> bytes;
};

struct AttentionInputs {
  AttentionInputs(const Attention& c, int64_t rows)
      : q(random_floats(rows * c.heads * c.dim * (c.gated ? 2 : 1), 21)),
        k(random_floats(rows * c.kv_heads * c.dim, 22)),
        v(random_floats(rows * c.kv_heads * c.dim, 23)),
        q_norm(random_floats(c.dim, 24)),
        k_norm(random_floats(c.dim, 25)),
        cos(random_floats(kBlocksEach * kKvBlockPositions * c.half, 26)),
        sin(random_floats(kBlocksEach * kKvBlockPositions * c.half, 27)) {}
  std::vector<float> q, k, v, q_norm, k_norm, cos, sin;
};

constexpr float kEps = 1e-6f;

float inverse_root(int64_t n) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
}

// Norms, rotates and stores row `row`; its queries go to `rotated`.
void store_row(const Attention& c, const AttentionInputs& in, Kv& kv, const CardRun& run,
               int64_t row, float* rotated) {
  const int64_t position = run.position + (row - run.first_row), dim = c.dim;
  const float* cos = in.cos.data() + position * c.half;
  const float* sin = in.sin.data() + position * c.half;
  for (int64_t h = 0; h < c.heads; ++h) {
    float* head = rotated + h * dim;
    cpu().rms_norm(head, in.q.data() + (row * c.heads + h) * dim * (c.gated ? 2 : 1),
                   in.q_norm.data(), dim, kEps);
    cpu().rope(head, cos, sin, c.half);
    for (int64_t d = 0; d < dim; ++d) head[d] *= inverse_root(dim);
  }
  const int64_t block = position / kKvBlockPositions, at = position % kKvBlockPositions * dim;
  for (int64_t h = 0; h < c.kv_heads; ++h) {
    std::vector<float> key(static_cast<size_t>(dim));
    cpu().rms_norm(key.data(), in.k.data() + (row * c.kv_heads + h) * dim, in.k_norm.data(), dim,
                   kEps);
    cpu().rope(key.data(), cos, sin, c.half);
    const float* value = in.v.data() + (row * c.kv_heads + h) * dim;
    for (const int64_t is_value : {0, 1}) {
      std::byte* to = kv.at(run.sequence, block, h, is_value) + at * kv.element;
      const float* from = is_value ? value : key.data();
      if (c.kv_f16) {
        cpu().to_half(reinterpret_cast<uint16_t*>(to), from, dim);
      } else {
        std::memcpy(to, from, static_cast<size_t>(dim) * sizeof(float));
      }
    }
  }
}

// As HostDevice::attend.
std::vector<float> attend_on_cpu(const Attention& c, const AttentionInputs& in, Kv& kv,
                                 const std::vector<CardRun>& runs, int64_t rows) {
  const int64_t group = c.heads / c.kv_heads, width = c.heads * c.dim;
  std::vector<float> rotated(static_cast<size_t>(rows * width)), out(rotated.size());
  std::vector<float> scratch(static_cast<size_t>(attention_scratch_floats(c.dim)));
  for (const CardRun& run : runs) {
    for (int64_t r = run.first_row; r < run.first_row + run.rows; ++r) {
      store_row(c, in, kv, run, r, rotated.data() + r * width);
    }
  }
  for (const CardRun& run : runs) {
    for (int64_t r = run.first_row; r < run.first_row + run.rows; ++r) {
      for (int64_t h = 0; h < c.kv_heads; ++h) {
        const void *keys[kBlocksEach], *values[kBlocksEach];
        for (int64_t b = 0; b < kBlocksEach; ++b) {
          keys[b] = kv.at(run.sequence, b, h, 0);
          values[b] = kv.at(run.sequence, b, h, 1);
        }
        const int64_t at = r * width + h * group * c.dim;
        cpu().attention({rotated.data() + at, group, c.dim, keys, values,
                         run.position + (r - run.first_row) + 1, c.kv_f16, out.data() + at,
                         scratch.data()});
      }
      for (int64_t h = 0; c.gated && h < c.heads; ++h) {
        cpu().sigmoid_mul(out.data() + r * width + h * c.dim,
                          in.q.data() + (r * 2 * c.heads + 2 * h + 1) * c.dim, c.dim);
      }
    }
  }
  return out;
}

std::vector<float> attend_on_card(OnCard& card, const Attention& c, const AttentionInputs& in,
                                  Kv& kv, const std::vector<CardRun>& runs, int64_t rows,
                                  int64_t context_blocks) {
  std::vector<float> rotated = unwritten(rows * c.heads * c.dim), out = rotated;
  std::vector<float> scratch =
      unwritten(card_attend_scratch_floats(rows, c.heads, c.dim, context_blocks));
  const std::vector<std::byte*> blocks = kv.blocks(card.put(kv.bytes));
  CardAttendArgs a;
  a.step = {card.put(runs), std::ssize(runs), rows, card.put(blocks), kBlocksEach};
  a.layer = kLayer;
  a.heads = c.heads, a.kv_heads = c.kv_heads, a.dim = c.dim, a.half = c.half;
  a.gated = c.gated, a.kv_f16 = c.kv_f16, a.eps = kEps;
  a.q_norm = card.put(in.q_norm), a.k_norm = card.put(in.k_norm);
  a.cos = card.put(in.cos), a.sin = card.put(in.sin);
  a.q = card.put(in.q), a.k = card.put(in.k), a.v = card.put(in.v);
  a.rotated = card.put(rotated), a.out = card.put(out);
  a.context_blocks = context_blocks;
  if (context_blocks > 0) a.scratch = card.put(scratch);
  card.kernels().attend(card.stream(), a);
  card.finish();
  return out;
}

class AttentionKernelTest : public CardTest {
 protected:
  void expect_the_cpus_bits(const Attention& c, const std::vector<CardRun>& runs);
};
INSTANTIATE_TEST_SUITE_P(Card, AttentionKernelTest, kCards, card_name);

// Both ways of the card, decoding's and prompts'.
void AttentionKernelTest::expect_the_cpus_bits(const Attention& c,
                                               const std::vector<CardRun>& runs) {
  SCOPED_TRACE(testing::Message() << c.heads << "/" << c.kv_heads << " heads of " << c.dim);
  int64_t rows = 0;
  for (const CardRun& run : runs) rows += run.rows;
  const AttentionInputs in(c, rows);
  const Kv start(c);
  Kv kv = start;
  const std::vector<float> expected = attend_on_cpu(c, in, kv, runs, rows);
  for (const int64_t context_blocks : {int64_t{0}, kBlocksEach}) {
    SCOPED_TRACE(testing::Message() << context_blocks << " blocks of context");
    on_card([&](OnCard& card) {
      Kv mine = start;
      const std::vector<float> out = attend_on_card(card, c, in, mine, runs, rows, context_blocks);
      EXPECT_EQ(difference(out, expected), "");
      EXPECT_TRUE(mine.bytes == kv.bytes) << "keys and values";
    });
  }
}

TEST_P(AttentionKernelTest, DecodingSeveralSequencesHasTheCpusBits) {
  for (const Attention& c : {Attention{8, 1, 32, 4, true, true},
                             {4, 2, 32, 16, false, true},
                             {3, 1, 16, 3, false, false},
                             {2, 2, 48, 24, true, false},
                             {11, 1, 16, 8, false, true}}) {
    expect_the_cpus_bits(c, {{0, 1, 0, 2}, {1, 1, 255, 0}, {2, 1, 700, 1}});
  }
  expect_the_cpus_bits({16, 2, 256, 32, true, true}, {{0, 1, 256, 1}});
}

TEST_P(AttentionKernelTest, PromptsHaveTheCpusBits) {
  for (const bool kv_f16 : {true, false}) {
    expect_the_cpus_bits({6, 2, 32, 4, true, kv_f16},
                         {{0, 5, 253, 1}, {5, 1, 30, 0}, {6, 2, 0, 2}});
  }
}

struct Delta {
  int64_t key_heads, value_heads, dk, dv, width;
  int64_t channels() const { return 2 * key_heads * dk + value_heads * dv; }
  int64_t state_floats() const { return value_heads * dk * dv; }
  int64_t layer_floats() const { return state_floats() + (width - 1) * channels(); }
  int64_t sequence_floats() const { return 2 * layer_floats(); }  // two layers: ours is the second
};

struct DeltaInputs {
  DeltaInputs(const Delta& c, int64_t rows)
      : conv(random_floats(c.width * c.channels(), 31, 0.5f)),
        dt_bias(random_floats(c.value_heads, 32)),
        a(random_floats(c.value_heads, 33)),
        norm(random_floats(c.dv, 34)),
        qkv(random_floats(rows * c.channels(), 35)),
        z(random_floats(rows * c.value_heads * c.dv, 36)),
        ba(random_floats(rows * 2 * c.value_heads, 37, 3.0f)) {
    for (float& x : a) x = -std::fabs(x);
    ba[c.value_heads] = 100.0f;  // beyond 20 softplus is the identity, and exp clamps
  }
  std::vector<float> conv, dt_bias, a, norm, qkv, z, ba;
};

// The convolution of a run, and its state moved on, as HostDevice::convolve.
void convolve(const Delta& c, const DeltaInputs& in, const CardRun& run, float* state,
              std::vector<float>& convolved) {
  const int64_t channels = c.channels(), past = c.width - 1;
  std::vector<float> inputs(state, state + past * channels);
  const float* first = in.qkv.data() + run.first_row * channels;
  inputs.insert(inputs.end(), first, first + run.rows * channels);
  for (int64_t r = 0; r < run.rows; ++r) {
    std::vector<const float*> window;
    for (int64_t j = 0; j < c.width; ++j) window.push_back(inputs.data() + (r + j) * channels);
    float* out = convolved.data() + (run.first_row + r) * channels;
    cpu().conv(out, in.conv.data(), channels, window.data(), channels, c.width);
    for (int64_t h = 0; h < 2 * c.key_heads; ++h) {
      cpu().l2_norm(out + h * c.dk, c.dk, 1e-6f, h < c.key_heads ? inverse_root(c.dk) : 1.0f);
    }
  }
  std::copy(inputs.end() - past * channels, inputs.end(), state);
}

// Log decay and beta of a row's value head, as HostDevice::delta_heads.
std::pair<float, float> gates_of(const Delta& c, const DeltaInputs& in, int64_t row, int64_t h) {
  const float* ba = in.ba.data() + row * 2 * c.value_heads;
  const float x = ba[c.value_heads + h] + in.dt_bias[h], inputs[2] = {-ba[h], x};
  float powers[2];
  cpu().exp(powers, inputs, 2);
  const float softplus = x > 20.0f ? x : static_cast<float>(log_one_plus(powers[1]));
  return {in.a[h] * softplus, 1.0f / (1.0f + powers[0])};
}

std::vector<float> delta_on_cpu(const Delta& c, const DeltaInputs& in,
                                const std::vector<CardRun>& runs, int64_t rows,
                                std::vector<float>& states) {
  std::vector<float> convolved(static_cast<size_t>(rows * c.channels()));
  std::vector<float> g(static_cast<size_t>(rows)), beta(g);
  std::vector<float> out(static_cast<size_t>(rows * c.value_heads * c.dv));
  std::vector<float> scratch(static_cast<size_t>(delta_scratch_floats(c.dk, c.dv)));
  const int64_t out_stride = c.value_heads * c.dv;
  for (const CardRun& run : runs) {
    float* state = states.data() + run.sequence * c.sequence_floats() + c.layer_floats();
    convolve(c, in, run, state + c.state_floats(), convolved);
    for (int64_t h = 0; h < c.value_heads; ++h) {
      for (int64_t r = run.first_row; r < run.first_row + run.rows; ++r) {
        std::tie(g[r], beta[r]) = gates_of(c, in, r, h);
      }
      for (int64_t r = 0; r < run.rows;) {
        const int64_t row = run.first_row + r;
        const float* at = convolved.data() + row * c.channels();
        const int64_t key_head = h / (c.value_heads / c.key_heads);
        DeltaArgs a;
        a.tokens = std::min(run.rows - r, kDeltaChunk - (run.position + r) % kDeltaChunk);
        a.dk = c.dk, a.dv = c.dv;
        a.q = at + key_head * c.dk;
        a.k = at + (c.key_heads + key_head) * c.dk;
        a.v = at + 2 * c.key_heads * c.dk + h * c.dv;
        a.q_stride = a.k_stride = a.v_stride = c.channels();
        a.g = g.data() + row, a.beta = beta.data() + row, a.gate_stride = 1;
        a.state = state + h * c.dk * c.dv;
        a.out = out.data() + row * out_stride + h * c.dv, a.out_stride = out_stride;
        a.scratch = scratch.data();
        cpu().delta(a);
        r += a.tokens;
      }
    }
  }
  for (int64_t i = 0; i < rows * c.value_heads; ++i) {
    float* head = out.data() + i * c.dv;
    cpu().rms_norm(head, head, in.norm.data(), c.dv, kEps);
    cpu().silu_mul(head, in.z.data() + i * c.dv, head, c.dv);
  }
  return out;
}

std::vector<float> delta_on_card(OnCard& card, const Delta& c, const DeltaInputs& in,
                                 const std::vector<CardRun>& runs, int64_t rows,
                                 std::vector<float>& states) {
  std::vector<float> convolved = unwritten(rows * c.channels());
  std::vector<float> gates = unwritten(rows * 2 * c.value_heads);
  std::vector<float> raw = unwritten(rows * c.value_heads * c.dv), out = raw;
  std::vector<float> scratch = unwritten(card_delta_scratch_floats(c.dk, c.dv));
  CardDeltaArgs a;
  a.step = {card.put(runs), std::ssize(runs), rows, nullptr, 0};
  a.key_heads = c.key_heads, a.value_heads = c.value_heads;
  a.dk = c.dk, a.dv = c.dv, a.width = c.width, a.eps = kEps;
  a.conv_weight = card.put(in.conv), a.dt_bias = card.put(in.dt_bias);
  a.a = card.put(in.a), a.norm = card.put(in.norm);
  a.qkv = card.put(in.qkv), a.z = card.put(in.z), a.ba = card.put(in.ba);
  a.state = card.put(states) + c.layer_floats();
  a.conv_state = a.state + c.state_floats();
  a.sequence_stride = c.sequence_floats();
  a.convolved = card.put(convolved), a.gates = card.put(gates);
  a.raw = card.put(raw), a.out = card.put(out);
  if (std::ssize(runs) < rows) a.scratch = card.put(scratch);
  card.kernels().delta_net(card.stream(), a);
  card.finish();
  return out;
}

class DeltaNetKernelTest : public CardTest {
 protected:
  void expect_the_cpus_bits(const Delta& c, const std::vector<CardRun>& runs) {
    SCOPED_TRACE(testing::Message() << c.value_heads << " heads, " << c.dk << " x " << c.dv);
    int64_t rows = 0;
    for (const CardRun& run : runs) rows += run.rows;
    const DeltaInputs in(c, rows);
    const std::vector<float> start = random_floats(kSequences * c.sequence_floats(), 38);
    std::vector<float> expected_states = start;
    const std::vector<float> expected = delta_on_cpu(c, in, runs, rows, expected_states);
    on_card([&](OnCard& card) {
      std::vector<float> states = start;
      EXPECT_EQ(difference(delta_on_card(card, c, in, runs, rows, states), expected), "");
      EXPECT_EQ(difference(states, expected_states), "") << "states";
    });
  }
};
INSTANTIATE_TEST_SUITE_P(Card, DeltaNetKernelTest, kCards, card_name);

TEST_P(DeltaNetKernelTest, DecodingSeveralSequencesHasTheCpusBits) {
  for (const Delta& c : {Delta{1, 1, 16, 16, 4},
                         {2, 4, 16, 32, 4},
                         {1, 2, 32, 48, 2},
                         {2, 2, 128, 128, 4},
                         {1, 3, 48, 16, 8}}) {
    expect_the_cpus_bits(c, {{0, 1, 64, 2}, {1, 1, 0, 0}, {2, 1, 700, 1}});
  }
}

TEST_P(DeltaNetKernelTest, PromptsHaveTheCpusBits) {
  const Delta c{1, 2, 16, 32, 4};
  expect_the_cpus_bits(c, {{0, 2, 0, 1}});
  expect_the_cpus_bits(c, {{0, 129, 0, 1}});  // the last chunk has one token
  expect_the_cpus_bits(c, {{0, 70, 60, 2}, {70, 1, 5, 0}, {71, 3, 0, 1}});  // chunks of 4, 64 and 2
  expect_the_cpus_bits({2, 2, 64, 48, 4}, {{0, 65, 0, 0}});
}

}  // namespace
}  // namespace hotset::test
