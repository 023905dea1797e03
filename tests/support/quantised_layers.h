// The layers of tests/data/quantised: tensors that the libraries of the formats quantised, and what
// those libraries decode them to.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/weights/json.h"
#include "runtime/weights/quantised/quantised.h"
#include "runtime/weights/safetensors.h"
#include "tests/support/golden.h"

namespace hotset {

// Folders that have expected values.
inline std::vector<std::string> quantised_formats() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(test::data_path("quantised"))) {
    if (std::filesystem::exists(entry.path() / "expected/model.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

// The layers of one format, each with what its library says it means.
class QuantisedLayers {
 public:
  explicit QuantisedLayers(const std::string& name)
      : folder_(test::data_path("quantised/" + name + "/tensor")),
        expected_(test::data_path("quantised/" + name + "/expected")),
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

}  // namespace hotset
