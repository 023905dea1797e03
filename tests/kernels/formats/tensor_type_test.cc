// Block formats against gguf-py's values and blocks, and the 16-bit floats against definitions.
#include "kernels/formats/tensor_type.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "tests/kernels/formats/block_goldens.h"

namespace hotset {
namespace {

// The value of a binary float with `exponent` and `mantissa` bits, from its definition.
double defined_value(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits >> (exponent_bits + mantissa_bits) & 1 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  }
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  return sign * (exponent == 0 ? std::ldexp(fraction, 1 - bias)
                               : std::ldexp(1 + fraction, exponent - bias));
}

TEST(HalfTest, EveryHalfHasItsDefinedValueAndComesBack) {
  for (uint32_t half = 0; half < 65536; ++half) {
    const float value = half_to_float(static_cast<uint16_t>(half));
    const double defined = defined_value(half, 5, 10);
    if (std::isnan(defined)) {
      EXPECT_TRUE(std::isnan(value)) << half;
      EXPECT_EQ(float_to_half(value), half | 0x200) << "a NaN keeps its payload, made quiet";
      continue;
    }
    EXPECT_EQ(value, defined) << half;
    EXPECT_EQ(std::signbit(value), (half >> 15) == 1) << half;
    EXPECT_EQ(float_to_half(value), half) << half;
  }
}

// Around the midpoint of each pair of neighbouring numbers: below goes down, above up, the
// midpoint to the even one.
template <class Narrow>
void expect_nearest_even(uint32_t low_bits, double low, double high, Narrow narrow) {
  const auto middle = static_cast<float>((low + high) / 2);
  ASSERT_EQ(middle, (low + high) / 2) << low_bits;
  const uint32_t even = low_bits % 2 == 0 ? low_bits : low_bits + 1;
  EXPECT_EQ(narrow(middle), even) << low_bits;
  EXPECT_EQ(narrow(-middle), even | 0x8000) << low_bits;
  EXPECT_EQ(narrow(std::nextafter(middle, 0.0f)), low_bits);
  EXPECT_EQ(narrow(std::nextafter(middle, std::numeric_limits<float>::infinity())), low_bits + 1);
}

TEST(HalfTest, FloatsRoundToTheNearestHalfAndTiesToEven) {
  for (uint32_t half = 0; half < 0x7c00; ++half) {
    const double next = half == 0x7bff ? 65536.0 : defined_value(half + 1, 5, 10);
    expect_nearest_even(half, defined_value(half, 5, 10), next, float_to_half);
  }
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::max()), 0x7c00);
  EXPECT_EQ(float_to_half(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(Bf16Test, EveryBf16HasItsDefinedValueAndFloatsRoundToTheNearest) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = bf16_to_float(static_cast<uint16_t>(bits));
    const double defined = defined_value(bits, 8, 7);
    if (std::isnan(defined)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_EQ(float_to_bf16(value), bits | 0x40) << bits;
      continue;
    }
    EXPECT_EQ(value, defined) << bits;
    EXPECT_EQ(float_to_bf16(value), bits) << bits;
    if (bits < 0x7f80) {
      const double next = bits == 0x7f7f ? std::ldexp(1.0, 128) : defined_value(bits + 1, 8, 7);
      expect_nearest_even(bits, defined, next, float_to_bf16);
    }
  }
  // A NaN whose payload lies in the lost bits only must not become an infinity.
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7f800001)))));
  EXPECT_TRUE(std::isnan(half_to_float(float_to_half(std::bit_cast<float>(0x7f800001)))));
}

TEST(TensorTypeTest, TypesAreFoundByTheirGgmlIdsAndRowsTakeWholeBlocks) {
  for (const TensorType type : kAllTypes) {
    const TensorTypeInfo* found = find_tensor_type(static_cast<uint32_t>(type));
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->type, type);
    EXPECT_EQ(found, &info(type));
    EXPECT_EQ(row_bytes(type, 512), 512 / found->block_size * found->block_bytes);
  }
  EXPECT_EQ(find_tensor_type(39)->name, "MXFP4");
  EXPECT_EQ(row_bytes(TensorType::kQ6_K, 2048), 8 * 210);
}

TEST(TensorTypeTest, EveryOtherKnownIdHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (uint32_t id = 0; id <= 41; ++id) {
    const bool readable = find_tensor_type(id) != nullptr;
    const std::string_view name = readable ? find_tensor_type(id)->name : unreadable_type_name(id);
    EXPECT_TRUE(!readable || unreadable_type_name(id).empty()) << id;
    if (name.empty()) continue;
    EXPECT_TRUE(names.insert(name).second) << name;
  }
  EXPECT_EQ(unreadable_type_name(16), "IQ2_XXS");
  EXPECT_EQ(unreadable_type_name(4), "Q4_2 (removed)");
  EXPECT_EQ(unreadable_type_name(3), "");
  EXPECT_EQ(unreadable_type_name(1000), "");
}

class BlockTest : public testing::TestWithParam<TensorType> {};
INSTANTIATE_TEST_SUITE_P(Types, BlockTest, testing::ValuesIn(kAllTypes), [](const auto& test) {
  return std::string(hotset::info(test.param).name);
});

TEST_P(BlockTest, DequantisedValuesEqualGgufPyBitForBit) {
  const BlockGoldens goldens = read_goldens(GetParam());
  ASSERT_EQ(goldens.elements, info(GetParam()).block_size);
  ASSERT_EQ(goldens.block_bytes, info(GetParam()).block_bytes);
  std::vector<float> values(goldens.values.size());
  dequantise_row(GetParam(), goldens.blocks.data(), values.data(),
                 static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(goldens.values[i]))
        << "element " << i << ": " << values[i] << ", gguf-py has " << goldens.values[i];
  }
}

TEST_P(BlockTest, RowsAreReadAtAnyAddress) {
  const BlockGoldens goldens = read_goldens(GetParam());
  std::vector<std::byte> shifted(goldens.blocks.size() + 1);
  std::memcpy(shifted.data() + 1, goldens.blocks.data(), goldens.blocks.size());
  std::vector<float> values(goldens.values.size());
  const auto count = static_cast<int64_t>(values.size());
  dequantise_row(GetParam(), shifted.data() + 1, values.data(), count);
  EXPECT_EQ(std::memcmp(values.data(), goldens.values.data(), values.size() * 4), 0);
  EXPECT_EQ(first_not_finite(GetParam(), shifted.data() + 1, count), -1);
}

TEST(NotFiniteTest, ABadScaleOrElementIsFoundInEveryFieldAndAtEveryBlock) {
  for (const FloatField& field : kFloatFields) {
    const BlockGoldens goldens = read_goldens(field.type);
    const int64_t count = goldens.count * goldens.elements;
    EXPECT_EQ(first_not_finite(field.type, goldens.blocks.data(), count), -1);
    for (int64_t bad = 0; bad < goldens.count; ++bad) {
      std::vector<std::byte> blocks = goldens.blocks;
      spoil(blocks.data() + bad * goldens.block_bytes, field, bad % 2 == 1);
      // A later bad block must not hide the first one.
      spoil(blocks.data() + (goldens.count - 1) * goldens.block_bytes, field, false);
      EXPECT_EQ(first_not_finite(field.type, blocks.data(), count), bad)
          << info(field.type).name << " field at " << field.at;
    }
  }
}

TEST(NotFiniteTest, ABadElementIsFoundAtEveryPlaceOfALongRow) {
  std::vector<float> row(1000, 1.0f);
  for (int64_t bad = 0; bad < 1000; ++bad) {
    row[static_cast<size_t>(bad)] = -std::numeric_limits<float>::infinity();
    EXPECT_EQ(first_not_finite(TensorType::kF32, row.data(), 1000), bad);
    EXPECT_EQ(first_not_finite(TensorType::kF32, row.data(), bad), -1);
    row[static_cast<size_t>(bad)] = 1.0f;
  }
}

class QuantiseTest : public testing::TestWithParam<TensorType> {};
INSTANTIATE_TEST_SUITE_P(Types, QuantiseTest,
                         testing::Values(TensorType::kQ4_0, TensorType::kQ8_0, TensorType::kF16,
                                         TensorType::kBF16),
                         [](const auto& test) {
                           return std::string(hotset::info(test.param).name);
                         });

TEST_P(QuantiseTest, BlocksEqualGgufPyBitForBit) {
  const BlockGoldens goldens = read_goldens(GetParam(), ".quantised");
  std::vector<std::byte> blocks(goldens.blocks.size());
  quantise_row(GetParam(), goldens.values.data(), blocks.data(),
               static_cast<int64_t>(goldens.values.size()));
  for (size_t i = 0; i < blocks.size(); ++i) {
    ASSERT_EQ(blocks[i], goldens.blocks[i])
        << "block " << i / static_cast<size_t>(goldens.block_bytes) << ", byte "
        << i % static_cast<size_t>(goldens.block_bytes);
  }
}

TEST_P(QuantiseTest, ARowTooSmallForTheTypeDecodesToZeros) {
  // The reciprocal of such a scale overflows: the codes must be defined all the same.
  std::vector<float> row(32, 1e-41f), decoded(32, 1.0f);
  row[7] = -2e-41f;
  std::vector<std::byte> block(static_cast<size_t>(row_bytes(GetParam(), 32)));
  quantise_row(GetParam(), row.data(), block.data(), 32);
  dequantise_row(GetParam(), block.data(), decoded.data(), 32);
  for (const float value : decoded) EXPECT_LT(std::fabs(value), 1e-40f);
}

TEST(QuantiseF32Test, FloatsAreCopied) {
  const float row[3] = {1.0f, -0.0f, 3e-45f};
  float copy[3];
  quantise_row(TensorType::kF32, row, copy, 3);
  EXPECT_EQ(std::memcmp(row, copy, sizeof row), 0);
}

}  // namespace
}  // namespace hotset
