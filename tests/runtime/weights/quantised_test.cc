// Tensors that the libraries of the formats quantised, against what those libraries decode them to
// (tests/data/quantised): as read, and after packing. The names of folders are those of formats.
#include "runtime/weights/quantised/quantised.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "runtime/weights/json.h"
#include "runtime/weights/safetensors.h"
#include "tests/runtime/weights/model_files.h"

namespace hotset {
namespace {

std::vector<std::string> formats() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(data_path("quantised"))) {
    if (std::filesystem::exists(entry.path() / "expected/model.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

// The layers of one format, each with what its library says it means.
class Fixture {
 public:
  explicit Fixture(const std::string& name)
      : folder_(data_path("quantised/" + name + "/tensor")),
        expected_(data_path("quantised/" + name + "/expected")),
        scheme_(
            open_scheme(config_of(folder_.folder()), folder_.folder() + "/config.json", folder_)) {}

  template <class Body>
  void for_each_layer(Body body) const {
    for (const TensorInfo& tensor : expected_.tensors()) {
      SCOPED_TRACE(tensor.name);
      const size_t suffix = tensor.name.ends_with(".weight") ? 7 : 0;
      const std::string layer = tensor.name.substr(0, tensor.name.size() - suffix);
      const int64_t k = tensor.row_length(), n = tensor.rows();
      const auto matrix = scheme_->find(layer, n, k);
      ASSERT_NE(matrix, nullptr);
      std::vector<float> values(static_cast<size_t>(n * k));
      tensor.file->read(tensor.offset, std::as_writable_bytes(std::span(values)));
      body(*matrix, values);
    }
    EXPECT_FALSE(expected_.tensors().empty());
  }

 private:
  static nlohmann::json config_of(const std::string& folder) {
    return read_json_file(folder + "/config.json");
  }

  SafetensorsFolder folder_, expected_;
  std::unique_ptr<QuantisedScheme> scheme_;
};

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
  Fixture(GetParam())
      .for_each_layer([](const QuantisedMatrix& matrix, const std::vector<float>& expected) {
        std::vector<float> found(expected.size());
        dequantise_rows(matrix, 0, matrix.n(), found.data());
        for (size_t i = 0; i < found.size(); ++i)
          ASSERT_EQ(found[i], expected[i]) << "weight " << i;
      });
}

TEST_P(QuantisedTest, AWindowOfRowsIsPartOfTheWhole) {
  Fixture(GetParam())
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
  Fixture(GetParam())
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

INSTANTIATE_TEST_SUITE_P(Formats, QuantisedTest, testing::ValuesIn(formats()),
                         [](const auto& info) { return info.param; });

TEST(QuantisedFormatsTest, EveryFormatOfTheListIsThere) {
  EXPECT_EQ(formats().size(), 30u);
}

// NF4 in two planes of bytes: where its errors lie, in units of the format's own step.
TEST(QuantisedFormatsTest, TheTwoPlanesOfNf4ErrByAHundredThousandthOfTheBlocksLargest) {
  double largest = 0, squares = 0, weights = 0;
  int64_t histogram[4] = {};  // error over the largest of the block: up to 2^-18, -17, -16, more
  Fixture("bnb_nf4").for_each_layer(
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

TEST(QuantisedFormatsTest, WhatIsNotReadIsRefusedByName) {
  for (const std::string name : {"hqq", "exl3"}) {
    const std::string file = data_path("quantised/" + name + "/tensor/config.json");
    const SafetensorsFolder any(data_path("quantised/bnb_nf4/tensor"));
    try {
      open_scheme(read_json_file(file), file, any);
      FAIL() << name << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("\"" + name + "\""), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace hotset
