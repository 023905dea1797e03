// Tensors that the libraries of the formats quantised, against what those libraries decode them to
// (tests/data/quantised): as read, and after packing. The names of folders are those of formats.
#include "runtime/weights/quantised/quantised.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "runtime/weights/json.h"
#include "tests/runtime/weights/model_files.h"
#include "tests/support/quantised_layers.h"

namespace hotset {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

std::vector<float> packed_and_decoded(const QuantisedMatrix& matrix) {
  const int64_t n = matrix.n(), k = matrix.k();
  const PackedShape shape = packed_shape(packed_format(matrix.form(), k), n, k);
  std::vector<std::byte> packed(static_cast<size_t>(shape.bytes) + 64);
  std::byte* data = packed.data() + (64 - reinterpret_cast<uintptr_t>(packed.data()) % 64);
  if (shape.format.layout == Layout::kPF) {
    std::vector<float> values(static_cast<size_t>(n * k));
    dequantise_rows(matrix, 0, n, values.data());
    pack_rows(shape, TensorType::kF32, reinterpret_cast<const std::byte*>(values.data()), k * 4, 0,
              n, data);
  } else {
    for (int64_t first = 0; first < n; first += 24) {  // in windows, as a loader does
      const int64_t rows = std::min<int64_t>(24, n - first);
      std::vector<std::byte> memory(static_cast<size_t>(CodedBuffer::bytes(matrix, rows)));
      CodedBuffer buffer(matrix, rows, memory.data());
      matrix.read(first, rows, buffer.rows, buffer.scratch);
      pack_coded_rows(shape, matrix.form(), buffer.rows, first, rows, data);
    }
  }
  std::vector<float> out(static_cast<size_t>(n * k));
  for (int64_t row = 0; row < n; ++row) unpack_row({shape, data}, row, &out[row * k]);
  return out;
}

class QuantisedTest : public testing::TestWithParam<std::string> {};

TEST_P(QuantisedTest, DecodedWeightsAreTheLibrarysBitForBit) {
  QuantisedLayers(GetParam())
      .for_each_layer([](const QuantisedMatrix& matrix, const std::vector<float>& expected) {
        std::vector<float> found(expected.size());
        dequantise_rows(matrix, 0, matrix.n(), found.data());
        for (size_t i = 0; i < found.size(); ++i)
          ASSERT_EQ(found[i], expected[i]) << "weight " << i;
      });
}

TEST_P(QuantisedTest, AWindowOfRowsIsPartOfTheWhole) {
  QuantisedLayers(GetParam())
      .for_each_layer([](const QuantisedMatrix& matrix, const std::vector<float>& expected) {
        const int64_t k = matrix.k();
        for (int64_t first = 0; first < matrix.n(); first += 5) {
          const int64_t rows = std::min<int64_t>(7, matrix.n() - first);
          std::vector<float> found(static_cast<size_t>(rows * k));
          dequantise_rows(matrix, first, rows, found.data());
          for (int64_t i = 0; i < rows * k; ++i) ASSERT_EQ(found[i], expected[first * k + i]);
        }
      });
}

TEST_P(QuantisedTest, PackedWeightsAreAsNearAsTheirGradeSays) {
  QuantisedLayers(GetParam())
      .for_each_layer([](const QuantisedMatrix& matrix, const std::vector<float>& expected) {
        const Grade grade = packed_grade(matrix.form(), matrix.k());
        const std::vector<float> found = packed_and_decoded(matrix);
        std::vector<std::byte> memory(static_cast<size_t>(CodedBuffer::bytes(matrix, matrix.n())));
        CodedBuffer buffer(matrix, matrix.n(), memory.data());
        matrix.read(0, matrix.n(), buffer.rows, buffer.scratch);
        for (int64_t i = 0; i < std::ssize(found); ++i) {
          const double error = std::abs(static_cast<double>(found[i]) - expected[i]);
          double most = 0;
          if (grade.kind == Grade::Kind::kRounded) {
            most = std::abs(expected[i]) * 0x1p-22;  // the scale's rounding and the product's
          } else if (grade.kind == Grade::Kind::kApproximate) {
            // The table's largest entry is 1: a scale is the largest weight that its block can
            // have.
            const float scale = buffer.rows.scales[i / matrix.form().block];
            most = std::abs(scale) * grade.bound * (1 + 1e-6) + std::abs(expected[i]) * 0x1p-22;
          }
          ASSERT_LE(error, most) << "weight " << i << ": " << found[i] << " for " << expected[i];
        }
      });
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantisedTest, testing::ValuesIn(quantised_formats()),
                         [](const auto& info) { return info.param; });

TEST(QuantisedFormatsTest, EveryFormatOfTheListIsThere) {
  EXPECT_EQ(quantised_formats().size(), 30u);
}

// NF4 in two planes of bytes: where its errors lie, in units of the format's own step.
TEST(QuantisedFormatsTest, TheTwoPlanesOfNf4ErrByAHundredThousandthOfTheBlocksLargest) {
  double largest = 0, squares = 0, weights = 0;
  int64_t histogram[4] = {};  // error over the largest of the block: up to 2^-18, -17, -16, more
  QuantisedLayers("bnb_nf4").for_each_layer(
      [&](const QuantisedMatrix& matrix, const std::vector<float>& expected) {
        if (matrix.k() % 64 != 0) return;
        const std::vector<float> found = packed_and_decoded(matrix);
        for (size_t at = 0; at < expected.size(); at += 64) {
          double most = 0;
          for (size_t i = at; i < at + 64; ++i)
            most = std::max<double>(most, std::abs(expected[i]));
          for (size_t i = at; i < at + 64; ++i) {
            const double error = std::abs(static_cast<double>(found[i]) - expected[i]);
            if (most == 0) continue;
            largest = std::max(largest, error / most);
            squares += error * error;
            weights += static_cast<double>(expected[i]) * expected[i];
            ++histogram[std::clamp(
                static_cast<int>(std::ceil(std::log2(error / most + 1e-30))) + 18, 0, 3)];
          }
        }
      });
  EXPECT_GT(histogram[0], 0);
  EXPECT_GT(histogram[1], 0);  // the planes are not the table itself
  EXPECT_EQ(histogram[3], 0);
  EXPECT_LT(largest, 1.6e-5);  // half a step of 32512, and the roundings
  EXPECT_LT(std::sqrt(squares / weights), 3e-5);
}

std::string refused(const json& config, const std::string& file, const std::string& folder) {
  const SafetensorsFolder tensors(folder);
  try {
    open_scheme(config, file, tensors);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(QuantisedFormatsTest, WhatIsNotReadIsRefusedByNameOfSchemeAndModule) {
  const std::string folder = data_path("quantised/gptq_v1_sym/tensor");
  for (const std::string name : {"hqq", "exl3"}) {
    const std::string file = data_path("quantised/" + name + "/tensor/config.json");
    EXPECT_THAT(refused(read_json_file(file), file, folder),
                AllOf(HasSubstr("\"" + name + "\""), HasSubstr("(module model.layers.0."),
                      HasSubstr(" and others)")));
  }
  const json gptq = {{"quant_method", "gptq"}, {"bits", 3}, {"group_size", 128}};
  EXPECT_THAT(refused({{"quantization_config", gptq}}, "config.json", folder),
              AllOf(HasSubstr("config.json"), HasSubstr("gptq of 3 bits is not read")));
}

// Older folders of ModelOpt have only a file of its own, newer ones config.json as well.
TEST(QuantisedFormatsTest, ModelOptIsRefusedByNameOfSchemeAndModuleWhereverItSaysSo) {
  TempFolder folder;
  const std::string module = "model.layers.1.self_attn.q_proj", weight = module + ".weight";
  json header;
  header["model.layers.0.input_layernorm.weight"] = {
      {"dtype", "BF16"}, {"shape", {2}}, {"data_offsets", {0, 4}}};
  header[weight] = {{"dtype", "F8_E4M3"}, {"shape", {2, 2}}, {"data_offsets", {4, 8}}};
  const std::string text = header.dump();
  const uint64_t size = text.size();
  std::string file(reinterpret_cast<const char*>(&size), sizeof size);
  write_text(folder.file("model.safetensors"), file + text + std::string(8, '\0'));
  const auto names_both = AllOf(HasSubstr("quant_algo"), HasSubstr("\"FP8\""),
                                HasSubstr("module " + module + " and others"));

  const json newer = {{"quant_method", "modelopt"}, {"quant_algo", "FP8"}};
  EXPECT_THAT(refused({{"quantization_config", newer}}, "config.json", folder.path()),
              AllOf(HasSubstr("config.json"), HasSubstr("\"modelopt\""), names_both));
  EXPECT_EQ(refused(json::object(), "config.json", folder.path()), "");

  const json own = {{"quantization", {{"quant_algo", "FP8"}, {"exclude_modules", {"lm_head"}}}}};
  write_text(folder.file("hf_quant_config.json"), own.dump());
  EXPECT_THAT(refused(json::object(), "config.json", folder.path()),
              AllOf(HasSubstr("hf_quant_config.json"), HasSubstr("ModelOpt"), names_both));
  write_text(folder.file("hf_quant_config.json"), "[");
  EXPECT_THAT(refused(json::object(), "config.json", folder.path()),
              HasSubstr("hf_quant_config.json"));
}

// A module's tensors may be in any shard, and its group is that of the target that says most.
TEST(QuantisedFormatsTest, EachModuleHasTheConfigGroupThatNamesItBestInWhicheverShardItIs) {
  const std::string formats[] = {"ct_int4_sym", "ct_w8a8", "ct_fp8_channel"};
  const std::vector<std::string> targets[] = {
      {"Linear"},
      {"re:.*experts\\.[12]\\..*"},
      {"model.layers.0.mlp.experts.2.gate_proj", "model.layers.0.mlp.experts.2.up_proj",
       "model.layers.0.mlp.experts.2.down_proj"}};
  TempFolder folder;
  json groups, weight_map;
  for (int i = 0; i < 3; ++i) {
    const std::string from = data_path("quantised/" + formats[i] + "/tensor/");
    const std::string shard = formats[i] + ".safetensors", expert = "experts." + std::to_string(i);
    std::string text = read_text(from + "model.safetensors");
    for (size_t at = 0; (at = text.find("experts.0", at)) != std::string::npos; ++at) {
      text.replace(at, expert.size(), expert);
    }
    write_text(folder.file(shard), text);
    uint64_t head = 0;
    std::memcpy(&head, text.data(), sizeof head);
    const json header = json::parse(text.substr(8, head));
    for (const auto& [name, tensor] : header.items()) {
      if (name.find(expert) != std::string::npos) weight_map[name] = shard;
    }
    const json config = read_json_file(from + "config.json")["quantization_config"];
    json group = config["config_groups"]["group_0"];
    group["format"] = config["format"];
    group["targets"] = targets[i];
    groups["group_" + std::to_string(i)] = group;
  }
  write_text(folder.file("model.safetensors.index.json"), json{{"weight_map", weight_map}}.dump());
  const json config = {{"quant_method", "compressed-tensors"},
                       {"format", "mixed-precision"},
                       {"config_groups", groups}};
  const SafetensorsFolder tensors(folder.path());
  const auto scheme = open_scheme({{"quantization_config", config}}, "config.json", tensors);
  for (int i = 0; i < 3; ++i) {
    const SafetensorsFolder expected(data_path("quantised/" + formats[i] + "/expected"));
    for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
      const std::string at = std::string(projection) + ".weight";
      const TensorInfo* want = expected.find("model.layers.0.mlp.experts.0." + at);
      ASSERT_NE(want, nullptr);
      const int64_t n = want->rows(), k = want->row_length();
      const auto matrix =
          scheme->find("model.layers.0.mlp.experts." + std::to_string(i) + "." + projection, n, k);
      ASSERT_NE(matrix, nullptr) << formats[i];
      std::vector<float> found(static_cast<size_t>(n * k)), values(found.size());
      dequantise_rows(*matrix, 0, n, found.data());
      want->file->read(want->offset, std::as_writable_bytes(std::span(values)));
      EXPECT_EQ(found, values) << formats[i] << " " << projection;
    }
  }
}

}  // namespace
}  // namespace hotset
