// Reads the golden files of tests/data: safetensors with float32, int32 and int16 tensors.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace hotset::test {

inline std::string data_path(const std::string& relative) {
  return HOTSET_SOURCE_DIR "/tests/data/" + relative;
}

class Golden {
 public:
  explicit Golden(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error("cannot open " + path);
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
    uint64_t length;
    std::memcpy(&length, bytes_.data(), 8);
    header_ =
        nlohmann::json::parse(bytes_.begin() + 8, bytes_.begin() + 8 + static_cast<long>(length));
    data_ = 8 + length;
  }

  bool has(const std::string& name) const { return header_.contains(name); }
  std::vector<int64_t> shape(const std::string& name) const { return header_.at(name).at("shape"); }
  std::vector<float> floats(const std::string& name) const {
    return read<float, float>(name, "F32");
  }
  std::vector<int32_t> integers(const std::string& name) const {
    return header_.at(name).at("dtype") == "I16" ? read<int16_t, int32_t>(name, "I16")
                                                 : read<int32_t, int32_t>(name, "I32");
  }

 private:
  template <class Stored, class Out>
  std::vector<Out> read(const std::string& name, const char* dtype) const {
    const auto& entry = header_.at(name);
    if (entry.at("dtype") != dtype) throw std::runtime_error(name + " has another dtype");
    const uint64_t begin = entry.at("data_offsets")[0], end = entry.at("data_offsets")[1];
    std::vector<Stored> stored((end - begin) / sizeof(Stored));
    std::memcpy(stored.data(), bytes_.data() + data_ + begin, end - begin);
    return {stored.begin(), stored.end()};
  }

  std::vector<char> bytes_;
  nlohmann::json header_;
  uint64_t data_ = 0;
};

}  // namespace hotset::test
