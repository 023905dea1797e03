// What the weights tests share: temporary folders, writers of GGUF and safetensors files (so that a
// test can change one thing of a sound model), and comparison of two descriptions.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/weights/model_description.h"

namespace hotset {

std::string data_path(const std::string& name);  // in tests/data

std::string read_text(const std::string& path);
void write_text(const std::string& path, const std::string& text);

class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A tensor with its bytes.
struct TensorData {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> dims;
  std::string bytes;
};

TensorData load_tensor(const TensorInfo& info);
std::vector<TensorData> load_tensors(const std::vector<TensorInfo>& infos);

using GgufKeys = std::map<std::string, GgufFile::Value>;
void write_gguf(const std::string& path, const GgufKeys& keys,
                const std::vector<TensorData>& tensors);

// BF16, F16 and F32 tensors only.
void write_safetensors(const std::string& path, const std::vector<TensorData>& tensors);

// A copy of a Hugging Face folder whose config.json can be changed.
void copy_hf_folder(const std::string& from, const TempFolder& to);
void write_config(const TempFolder& folder, const nlohmann::json& config);
nlohmann::json read_config(const TempFolder& folder);

std::vector<float> values_of(const MatrixSource& matrix);

// The same configuration (but for the name), vectors and matrices, value by value.
void expect_same_model(const ModelDescription& a, const ModelDescription& b);

// The message of the Error that opening `path` (and verifying its weights) ends in, or "".
std::string refusal(const std::string& path);

}  // namespace hotset
