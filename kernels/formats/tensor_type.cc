// The table of readable types, the names of the others, and conversions between float32 and the
// 16-bit floats in integer arithmetic, so that they are the same on every machine.
#include "kernels/formats/tensor_type.h"

#include <bit>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr TensorTypeInfo kTypes[] = {
    {TensorType::kF32, "F32", 1, 4},         {TensorType::kF16, "F16", 1, 2},
    {TensorType::kQ4_0, "Q4_0", 32, 18},     {TensorType::kQ4_1, "Q4_1", 32, 20},
    {TensorType::kQ5_0, "Q5_0", 32, 22},     {TensorType::kQ5_1, "Q5_1", 32, 24},
    {TensorType::kQ8_0, "Q8_0", 32, 34},     {TensorType::kQ2_K, "Q2_K", 256, 84},
    {TensorType::kQ3_K, "Q3_K", 256, 110},   {TensorType::kQ4_K, "Q4_K", 256, 144},
    {TensorType::kQ5_K, "Q5_K", 256, 176},   {TensorType::kQ6_K, "Q6_K", 256, 210},
    {TensorType::kIQ4_NL, "IQ4_NL", 32, 18}, {TensorType::kIQ4_XS, "IQ4_XS", 256, 136},
    {TensorType::kBF16, "BF16", 1, 2},       {TensorType::kMXFP4, "MXFP4", 32, 17},
};

struct UnreadableType {
  uint32_t id;
  std::string_view name;
};
constexpr UnreadableType kUnreadable[] = {
    {4, "Q4_2 (removed)"},
    {5, "Q4_3 (removed)"},
    {9, "Q8_1"},
    {15, "Q8_K"},
    {16, "IQ2_XXS"},
    {17, "IQ2_XS"},
    {18, "IQ3_XXS"},
    {19, "IQ1_S"},
    {21, "IQ3_S"},
    {22, "IQ2_S"},
    {24, "I8"},
    {25, "I16"},
    {26, "I32"},
    {27, "I64"},
    {28, "F64"},
    {29, "IQ1_M"},
    {31, "Q4_0_4_4 (removed)"},
    {32, "Q4_0_4_8 (removed)"},
    {33, "Q4_0_8_8 (removed)"},
    {34, "TQ1_0"},
    {35, "TQ2_0"},
    {36, "IQ4_NL_4_4 (removed)"},
    {37, "IQ4_NL_4_8 (removed)"},
    {38, "IQ4_NL_8_8 (removed)"},
    {40, "NVFP4"},
    {41, "Q1_0"},
};

}  // namespace

const TensorTypeInfo* find_tensor_type(uint32_t ggml_id) {
  for (const TensorTypeInfo& entry : kTypes) {
    if (static_cast<uint32_t>(entry.type) == ggml_id) return &entry;
  }
  return nullptr;
}

std::string_view unreadable_type_name(uint32_t ggml_id) {
  for (const UnreadableType& entry : kUnreadable) {
    if (entry.id == ggml_id) return entry.name;
  }
  return "";
}

const TensorTypeInfo& info(TensorType type) {
  const TensorTypeInfo* found = find_tensor_type(static_cast<uint32_t>(type));
  HOTSET_CHECK(found != nullptr, "a TensorType that is none of its enumerators");
  return *found;
}

float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t magnitude = half & 0x7fffu;
  uint32_t bits;
  if (magnitude > 0x7c00) {
    bits = 0x7fc00000 | magnitude << 13;  // a quiet NaN that keeps its payload, as vcvtph2ps does
  } else if (magnitude == 0x7c00) {
    bits = 0x7f800000;
  } else if (magnitude >= 0x0400) {
    bits = (magnitude << 13) + (uint32_t{127 - 15} << 23);
  } else {
    // Subnormal: magnitude * 2^-24, exact, and normal in float32.
    bits = std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
  }
  return std::bit_cast<float>(sign | bits);
}

uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00 | (magnitude >> 13 & 0x3ff);
  } else if (magnitude >= 0x477ff000) {  // 65520, halfway between the largest half and 2^16
    half = 0x7c00;
  } else if (magnitude >= 0x38800000) {  // 2^-14, the least normal half
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    half = (rounded - (uint32_t{127 - 15} << 23)) >> 13;
  } else {
    // The spacing of floats at 0.5 is 2^-24, that of subnormal halves: the addition rounds for us.
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  }
  return static_cast<uint16_t>(sign | half);
}

uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace hotset
