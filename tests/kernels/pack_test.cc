// Packed layouts: what comes out of unpack_row is what dequantise_row says of the source, bit for
// bit; the planes lie as packed.h describes them.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/check.h"
#include "kernels/packed.h"
#include "tests/kernels/formats/block_goldens.h"

namespace hotset {
namespace {

// A matrix whose blocks are drawn from the golden ones, extremes included.
struct Source {
  TensorType type;
  int64_t n, k, stride;
  std::vector<std::byte> bytes;
  const std::byte* row(int64_t r) const { return bytes.data() + r * stride; }
  std::vector<float> values(int64_t r) const {
    std::vector<float> out(static_cast<size_t>(k));
    dequantise_row(type, row(r), out.data(), k);
    return out;
  }
};

Source random_source(TensorType type, int64_t n, int64_t k, uint32_t seed) {
  const BlockGoldens goldens = read_goldens(type);
  std::mt19937 random(seed);
  const int64_t row = row_bytes(type, k);
  Source source = {type, n, k, row + 6, {}};  // rows need not be dense
  source.bytes.resize(static_cast<size_t>(n * source.stride), std::byte{0xff});
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t at = 0; at < row; at += goldens.block_bytes) {
      const int64_t block = random() % static_cast<uint32_t>(goldens.count);
      std::memcpy(source.bytes.data() + r * source.stride + at,
                  goldens.blocks.data() + block * goldens.block_bytes,
                  static_cast<size_t>(goldens.block_bytes));
    }
  }
  return source;
}

// Filled with 0xff first: what packing leaves unwritten shows.
std::vector<std::byte> buffer_for(const PackedShape& shape) {
  return std::vector<std::byte>(static_cast<size_t>(shape.bytes), std::byte{0xff});
}

std::vector<std::byte> pack(const PackedShape& shape, const Source& source) {
  std::vector<std::byte> packed = buffer_for(shape);
  pack_rows(shape, source.type, source.bytes.data(), source.stride, 0, source.n, packed.data());
  return packed;
}

// Equal bits, where -0 counts as 0.
bool same(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (a == 0 && b == 0);
}

void expect_unpacks_to(const Source& source, const PackedShape& shape,
                       const std::vector<std::byte>& packed) {
  const PackedMatrix matrix = {shape, packed.data()};
  std::vector<float> row(static_cast<size_t>(source.k));
  for (int64_t r = 0; r < shape.groups() * 8; ++r) {
    unpack_row(matrix, r, row.data());
    const std::vector<float> expected =
        r < source.n ? source.values(r) : std::vector<float>(row.size(), 0.0f);
    for (size_t j = 0; j < row.size(); ++j) {
      ASSERT_TRUE(same(row[j], expected[j]))
          << info(source.type).name << " n " << source.n << " k " << source.k << " row " << r
          << " input " << j << ": " << row[j] << ", the source says " << expected[j];
    }
  }
}

std::vector<int64_t> row_lengths(TensorType type) {
  switch (info(type).block_size) {
    case 1:
      return {1, 8, 31, 33, 256, 300, 515};
    case 32:
      return {32, 96, 256, 288};
    default:
      return {256, 768};
  }
}

class PackTest : public testing::TestWithParam<TensorType> {};
INSTANTIATE_TEST_SUITE_P(Types, PackTest, testing::ValuesIn(kAllTypes), [](const auto& test) {
  return std::string(hotset::info(test.param).name);
});

TEST_P(PackTest, UnpackedRowsEqualTheSourceAndMissingRowsAreZero) {
  for (const int64_t k : row_lengths(GetParam())) {
    for (const int64_t n : {1, 7, 8, 13, 24}) {
      const Source source = random_source(GetParam(), n, k, 100 + static_cast<uint32_t>(n * k));
      const PackedShape shape = packed_shape(packed_format(GetParam()), n, k);
      expect_unpacks_to(source, shape, pack(shape, source));
    }
  }
}

TEST_P(PackTest, PackingInPiecesFromTwoThreadsEqualsPackingAtOnce) {
  const int64_t n = 43, k = 512;
  const Source source = random_source(GetParam(), n, k, 5);
  const PackedShape shape = packed_shape(packed_format(GetParam()), n, k);
  std::vector<std::byte> pieces = buffer_for(shape);
  const auto pack_piece = [&](int64_t first, int64_t rows) {
    pack_rows(shape, source.type, source.row(first), source.stride, first, rows, pieces.data());
  };
  std::jthread other([&] { pack_piece(24, 19); });
  pack_piece(16, 8);
  pack_piece(0, 16);
  other.join();
  EXPECT_EQ(pieces, pack(shape, source));
}

TEST_P(PackTest, EveryTypeDecodesIntoFloats) {
  for (const int64_t k : row_lengths(GetParam())) {
    const Source source = random_source(GetParam(), 11, k, 9);
    const PackedShape shape = packed_shape(packed_format(TensorType::kF32), 11, k);
    expect_unpacks_to(source, shape, pack(shape, source));
  }
}

TEST_P(PackTest, PlanesAreAlignedAndLieInOrder) {
  const PackedShape shape = packed_shape(packed_format(GetParam()), 13, 768);
  const int64_t planes[] = {shape.codes,   shape.high,        shape.scales, shape.sub_scales,
                            shape.offsets, shape.sub_offsets, shape.bytes};
  for (const int64_t at : planes) EXPECT_EQ(at % 64, 0);
  EXPECT_TRUE(std::is_sorted(std::begin(planes), std::end(planes)));
}

TEST(PackErrorTest, ABadScaleIsRefusedWithItsRowAndBlock) {
  for (const FloatField& field : kFloatFields) {
    Source source = random_source(field.type, 21, 1024, 3);
    const int64_t block = 1024 / info(field.type).block_size - 1;
    spoil(source.bytes.data() + 18 * source.stride + block * info(field.type).block_bytes, field,
          true);
    const PackedShape shape = packed_shape(packed_format(field.type), 21, 1024);
    std::vector<std::byte> packed = buffer_for(shape);
    try {
      pack_rows(shape, field.type, source.row(16), source.stride, 16, 5, packed.data());
      ADD_FAILURE() << info(field.type).name << " was accepted";
    } catch (const Error& error) {
      const std::string what = error.what();
      EXPECT_NE(what.find("row 18"), std::string::npos) << what;
      EXPECT_NE(what.find(" " + std::to_string(block) + ":"), std::string::npos) << what;
      EXPECT_NE(what.find(info(field.type).name), std::string::npos) << what;
    }
  }
}

// Source rows of which every value is exact in bf16.
Source bf16_values(TensorType type, int64_t n, int64_t k) {
  const Source exact = random_source(TensorType::kBF16, n, k, 8);
  Source source = {type, n, k, row_bytes(type, k), {}};
  source.bytes.resize(static_cast<size_t>(n * source.stride));
  for (int64_t r = 0; r < n; ++r) {
    std::vector<float> values = exact.values(r);
    // Halves hold fewer exponents, so these rows are small multiples of a power of two.
    if (type == TensorType::kF16) {
      for (size_t j = 0; j < values.size(); ++j) values[j] = static_cast<float>(j % 256) / 64;
    }
    quantise_row(type, values.data(), source.bytes.data() + r * source.stride, k);
  }
  return source;
}

TEST(PackFloatTest, ExactBf16ValuesPackIntoHalfTheBytesOfF32) {
  for (const TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16}) {
    const Source source = bf16_values(type, 10, 300);
    const PackedFormat format = packed_format(type, true);
    EXPECT_EQ(format.element, TensorType::kBF16);
    const PackedShape shape = packed_shape(format, 10, 300);
    EXPECT_EQ(shape.bytes, 16 * 304 * 2);
    expect_unpacks_to(source, shape, pack(shape, source));
  }
}

TEST(PackFloatTest, InputsAndRowsOfThePaddingAreZero) {
  const Source source = random_source(TensorType::kF16, 11, 259, 4);
  const PackedShape shape = packed_shape(packed_format(TensorType::kF16), 11, 259);
  const std::vector<std::byte> packed = pack(shape, source);
  for (int64_t row = 0; row < 16; ++row) {
    for (int64_t j = row < 11 ? 259 : 0; j < 264; ++j) {
      uint16_t bits;
      std::memcpy(&bits, packed.data() + ((row / 8 * 264 + j) * 8 + row % 8) * 2, 2);
      EXPECT_EQ(bits, 0) << "input " << j << " row " << row;
    }
  }
}

TEST(PackFloatDeathTest, AWeightThatBf16WouldRoundIsNotPackedAsBf16) {
  Source source = bf16_values(TensorType::kF32, 8, 8);
  const float third = 1.0f / 3;
  std::memcpy(source.bytes.data() + 4, &third, 4);
  const PackedShape shape = packed_shape(packed_format(TensorType::kF32, true), 8, 8);
  EXPECT_DEATH(pack(shape, source), "round");
}

TEST(PackDeathTest, ALayoutOfAnotherTypeIsNotPackedInto) {
  const Source source = random_source(TensorType::kQ4_1, 8, 256, 1);
  const PackedShape shape = packed_shape(packed_format(TensorType::kQ4_0), 8, 256);
  EXPECT_DEATH(pack(shape, source), "layout");
}

// Row r, unit u, dword d of a plane with `dwords` a unit.
uint32_t dword_at(const std::vector<std::byte>& packed, int64_t plane, int64_t units, int dwords,
                  int64_t row, int64_t unit, int d) {
  const int64_t index = ((row / 8 * units + unit) * dwords + d) * 8 + row % 8;
  uint32_t word;
  std::memcpy(&word, packed.data() + plane + index * 4, 4);
  return word;
}

TEST(PackLayoutTest, P4IsTheSourcesDwordsInterleavedByRow) {
  const Source source = random_source(TensorType::kQ4_0, 16, 96, 2);
  const PackedShape shape = packed_shape(packed_format(TensorType::kQ4_0), 16, 96);
  const std::vector<std::byte> packed = pack(shape, source);
  for (int64_t row = 0; row < 16; ++row) {
    for (int64_t unit = 0; unit < 3; ++unit) {
      for (int d = 0; d < 4; ++d) {
        uint32_t word;
        std::memcpy(&word, source.row(row) + unit * 18 + 2 + 4 * d, 4);
        EXPECT_EQ(dword_at(packed, shape.codes, 3, 4, row, unit, d), word);
      }
    }
  }
}

TEST(PackLayoutTest, P6KeepsTheTopBitsInTheOrderThatTheHeaderStates) {
  const int64_t n = 9, k = 64;
  const Source source = random_source(TensorType::kQ5_0, n, k, 2);
  const PackedShape shape = packed_shape(packed_format(TensorType::kQ5_0), n, k);
  const std::vector<std::byte> packed = pack(shape, source);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t unit = 0; unit < 2; ++unit) {
      uint32_t fifth;
      std::memcpy(&fifth, source.row(row) + unit * 22 + 2, 4);
      for (int j = 0; j < 32; ++j) {
        const int d = j % 16 / 4, b = j % 4, half = j / 16, e = (2 * d + half) / 4,
                  f = (2 * d + half) % 4;
        const uint32_t word = dword_at(packed, shape.high, 2, 2, row, unit, e);
        EXPECT_EQ(word >> (8 * b + 2 * f) & 3, fifth >> j & 1) << "element " << j;
      }
    }
  }
}

TEST(PackLayoutTest, BytesAWeightAreThoseOfTheFormatTable) {
  const auto bits = [](TensorType type) {
    const PackedShape shape = packed_shape(packed_format(type), 512, 2048);
    return static_cast<double>(shape.bytes) * 8 / (512.0 * 2048.0);
  };
  EXPECT_EQ(bits(TensorType::kQ4_0), 4.5);
  EXPECT_EQ(bits(TensorType::kQ4_1), 5.0);
  EXPECT_EQ(bits(TensorType::kQ4_K), 4.625);
  EXPECT_EQ(bits(TensorType::kIQ4_NL), 4.5);
  EXPECT_EQ(bits(TensorType::kIQ4_XS), 4.3125);
  EXPECT_EQ(bits(TensorType::kMXFP4), 4.25);
  EXPECT_EQ(bits(TensorType::kQ6_K), 6.5625);
  EXPECT_EQ(bits(TensorType::kQ5_K), 6.625);
  EXPECT_EQ(bits(TensorType::kQ5_0), 6.5);
  EXPECT_EQ(bits(TensorType::kQ5_1), 7.0);
  EXPECT_EQ(bits(TensorType::kQ3_K), 4.5625);
  EXPECT_EQ(bits(TensorType::kQ2_K), 5.125);
  EXPECT_EQ(bits(TensorType::kQ8_0), 8.5);
}

TEST(ExpertShapeTest, MatricesFollowEachOtherAlignedAndTheBlobEndsAt256) {
  const PackedShape gate = packed_shape(packed_format(TensorType::kQ4_K), 24, 256);
  const PackedShape up = packed_shape(packed_format(TensorType::kQ8_0), 24, 256);
  const PackedShape down = packed_shape(packed_format(TensorType::kBF16), 256, 24);
  const ExpertShape shape = expert_shape(gate, up, down);
  EXPECT_GE(shape.up_at, shape.gate_at + gate.bytes);
  EXPECT_GE(shape.down_at, shape.up_at + up.bytes);
  EXPECT_GE(shape.bytes, shape.down_at + down.bytes);
  EXPECT_LT(shape.bytes, gate.bytes + up.bytes + down.bytes + 256);
  for (const int64_t at : {shape.gate_at, shape.up_at, shape.down_at}) EXPECT_EQ(at % 64, 0);
  ASSERT_NE((shape.down_at + down.bytes) % 256, 0) << "the matrices alone must not fill the blob";
  EXPECT_EQ(shape.bytes % 256, 0);
  const std::vector<std::byte> blob(static_cast<size_t>(shape.bytes));
  const ExpertView view = expert_view(shape, blob.data());
  EXPECT_EQ(view.up.data, blob.data() + shape.up_at);
  EXPECT_EQ(view.down.shape.format, down.format);
}

TEST(ExpertShapeDeathTest, MatricesOfDifferentExpertsDoNotMakeOne) {
  const PackedShape gate = packed_shape(packed_format(TensorType::kQ4_K), 48, 256);
  const PackedShape down = packed_shape(packed_format(TensorType::kBF16), 48, 256);
  EXPECT_DEATH(expert_shape(gate, gate, down), "down is");
}

}  // namespace
}  // namespace hotset
