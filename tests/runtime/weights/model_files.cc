// Helpers of the weights tests (see model_files.h).
#include "tests/runtime/weights/model_files.h"

#include <fstream>
#include <sstream>

#include "kernels/check.h"
#include "runtime/weights/verify.h"

namespace hotset {
namespace {

namespace fs = std::filesystem;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, const std::string& text) {
  put(out, uint64_t{text.size()});
  out += text;
}

struct ValueWriter {  // widest types of each kind: the reader must not care
  std::string& out;

  void operator()(int64_t v) { put(out, uint32_t{11}), put(out, v); }
  void operator()(uint64_t v) { put(out, uint32_t{10}), put(out, v); }
  void operator()(double v) { put(out, uint32_t{12}), put(out, v); }
  void operator()(bool v) { put(out, uint32_t{7}), put(out, uint8_t{v}); }
  void operator()(const std::string& v) { put(out, uint32_t{8}), put_string(out, v); }
  void operator()(const GgufFile::Array& v) {
    put(out, uint32_t{9});
    std::visit([&](const auto& entries) { array(entries); }, v);
  }

  void array(const std::vector<std::string>& entries) {
    put(out, uint32_t{8}), put(out, uint64_t{entries.size()});
    for (const auto& entry : entries) put_string(out, entry);
  }
  template <class T>
  void array(const std::vector<T>& entries) {
    const uint32_t type = std::is_same_v<T, int64_t> ? 11 : std::is_same_v<T, uint64_t> ? 10 : 12;
    put(out, type), put(out, uint64_t{entries.size()});
    for (const T entry : entries) put(out, entry);
  }
};

void pad(std::string& out, size_t alignment) {
  out.resize((out.size() + alignment - 1) / alignment * alignment);
}

void expect_same_matrix(const MatrixSource& a, const MatrixSource& b) {
  ASSERT_EQ(a.n, b.n) << a.name << " and " << b.name;
  ASSERT_EQ(a.k, b.k) << a.name << " and " << b.name;
  EXPECT_TRUE(values_of(a) == values_of(b)) << a.name << " and " << b.name;
}

void expect_same_expert(const ExpertSourceTensors& a, const ExpertSourceTensors& b) {
  expect_same_matrix(a.gate, b.gate);
  expect_same_matrix(a.up, b.up);
  expect_same_matrix(a.down, b.down);
}

void expect_same_layer(const LayerTensors& a, const LayerTensors& b) {
  ASSERT_EQ(a.is_delta_net, b.is_delta_net);
  EXPECT_EQ(a.mixer_norm, b.mixer_norm);
  EXPECT_EQ(a.moe_norm, b.moe_norm);
  if (a.is_delta_net) {
    expect_same_matrix(a.delta_net.qkv, b.delta_net.qkv);
    expect_same_matrix(a.delta_net.z, b.delta_net.z);
    expect_same_matrix(a.delta_net.ba, b.delta_net.ba);
    expect_same_matrix(a.delta_net.out, b.delta_net.out);
    EXPECT_EQ(a.delta_net.conv, b.delta_net.conv);
    EXPECT_EQ(a.delta_net.dt_bias, b.delta_net.dt_bias);
    EXPECT_EQ(a.delta_net.norm, b.delta_net.norm);
    ASSERT_EQ(a.delta_net.a.size(), b.delta_net.a.size());
    for (size_t i = 0; i < a.delta_net.a.size(); ++i) {  // another exp made the GGUF's
      EXPECT_FLOAT_EQ(a.delta_net.a[i], b.delta_net.a[i]);
    }
  } else {
    expect_same_matrix(a.attention.q, b.attention.q);
    expect_same_matrix(a.attention.k, b.attention.k);
    expect_same_matrix(a.attention.v, b.attention.v);
    expect_same_matrix(a.attention.o, b.attention.o);
    EXPECT_EQ(a.attention.q_norm, b.attention.q_norm);
    EXPECT_EQ(a.attention.k_norm, b.attention.k_norm);
  }
  expect_same_matrix(a.router, b.router);
  ASSERT_EQ(a.experts.size(), b.experts.size());
  for (size_t e = 0; e < a.experts.size(); ++e) expect_same_expert(a.experts[e], b.experts[e]);
  ASSERT_EQ(a.shared_expert.has_value(), b.shared_expert.has_value());
  if (a.shared_expert) {
    expect_same_expert(*a.shared_expert, *b.shared_expert);
    expect_same_matrix(a.shared_expert_gate, b.shared_expert_gate);
  }
}

}  // namespace

std::string data_path(const std::string& name) {
  return HOTSET_SOURCE_DIR "/tests/data/" + name;
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

TempFolder::TempFolder() {
  std::string name = (fs::temp_directory_path() / "hotset-XXXXXX").string();
  HOTSET_CHECK(::mkdtemp(name.data()) != nullptr, "the tests need a temporary folder");
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

TensorData load_tensor(const TensorInfo& info) {
  TensorData out{info.name, info.type, info.dims, std::string(info.bytes, '\0')};
  info.file->read(info.offset, std::as_writable_bytes(std::span(out.bytes)));
  return out;
}

std::vector<TensorData> load_tensors(const std::vector<TensorInfo>& infos) {
  std::vector<TensorData> out;
  for (const TensorInfo& info : infos) out.push_back(load_tensor(info));
  return out;
}

void write_gguf(const std::string& path, const GgufKeys& keys,
                const std::vector<TensorData>& tensors) {
  std::string out = "GGUF";
  put(out, uint32_t{3}), put(out, uint64_t{tensors.size()}), put(out, uint64_t{keys.size()});
  for (const auto& [key, value] : keys) {
    put_string(out, key);
    std::visit(ValueWriter{out}, value);
  }
  std::string data;
  for (const TensorData& tensor : tensors) {
    put_string(out, tensor.name);
    put(out, static_cast<uint32_t>(tensor.dims.size()));
    for (auto dim = tensor.dims.rbegin(); dim != tensor.dims.rend(); ++dim) put(out, *dim);
    put(out, static_cast<uint32_t>(tensor.type)), put(out, uint64_t{data.size()});
    data += tensor.bytes;
    pad(data, 32);
  }
  pad(out, 32);
  write_text(path, out + data);
}

void write_safetensors(const std::string& path, const std::vector<TensorData>& tensors) {
  nlohmann::json header;
  std::string data;
  for (const TensorData& tensor : tensors) {
    const size_t at = data.size();
    data += tensor.bytes;
    header[tensor.name] = {{"dtype", std::string(info(tensor.type).name)},
                           {"shape", tensor.dims},
                           {"data_offsets", {at, data.size()}}};
  }
  const std::string text = header.dump();
  std::string out;
  put(out, uint64_t{text.size()});
  write_text(path, out + text + data);
}

void copy_hf_folder(const std::string& from, const TempFolder& to) {
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json",
                           "tokenizer_config.json", "model.safetensors"}) {
    if (fs::exists(from + "/" + name)) fs::copy_file(from + "/" + name, to.file(name));
  }
}

void write_config(const TempFolder& folder, const nlohmann::json& config) {
  write_text(folder.file("config.json"), config.dump());
}

nlohmann::json read_config(const TempFolder& folder) {
  return nlohmann::json::parse(read_text(folder.file("config.json")));
}

std::vector<float> values_of(const MatrixSource& matrix) {
  std::vector<std::byte> bytes(static_cast<size_t>(matrix.bytes()));
  read_rows(matrix, 0, matrix.n, bytes);
  std::vector<float> values(static_cast<size_t>(matrix.n * matrix.k));
  dequantise_row(matrix.type, bytes.data(), values.data(), matrix.n * matrix.k);
  return values;
}

void expect_same_model(const ModelDescription& a, const ModelDescription& b) {
  ModelConfig config = b.config;
  config.name = a.config.name;
  EXPECT_TRUE(a.config == config);
  expect_same_matrix(a.embedding, b.embedding);
  expect_same_matrix(a.output, b.output);
  EXPECT_EQ(a.final_norm, b.final_norm);
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t i = 0; i < a.layers.size(); ++i) {
    SCOPED_TRACE("layer " + std::to_string(i));
    expect_same_layer(a.layers[i], b.layers[i]);
  }
  EXPECT_EQ(a.vocabulary.has_value(), b.vocabulary.has_value());
  EXPECT_EQ(a.chat_template, b.chat_template);
}

std::string refusal(const std::string& path) {
  try {
    verify_weights(open_model(path));
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace hotset
