// compressed-tensors (llm-compressor): config_groups say how the weights of the modules that their
// targets name are stored; `format` of a group, or of the whole, names one of the ways below. A
// module that has none of its tensors is not quantised.
#include <regex>

#include "kernels/check.h"
#include "runtime/weights/quantised/module_tensors.h"
#include "runtime/weights/quantised/schemes.h"

namespace hotset {
namespace {

struct Format {
  std::string_view name;
  MakeCompressed* make;
  std::string_view tensor, dtype;  // what a module that is quantised so has
};

constexpr Format kFormats[] = {
    {"pack-quantized", make_pack_quantized, ".weight_packed", "I32"},
    {"int-quantized", make_int_quantized, ".weight", "I8"},
    {"naive-quantized", make_int_quantized, ".weight", "I8"},
    {"float-quantized", make_float_quantized, ".weight", "F8_E4M3"},
    {"nvfp4-pack-quantized", make_nvfp4_packed, ".weight_packed", "U8"},
    {"mxfp4-pack-quantized", make_mxfp4_packed, ".weight_packed", "U8"},
};

struct Group {
  std::vector<std::string> targets;
  CompressedWeights weights;
  const Format* format = nullptr;
};

const Format& find_format(const JsonObject& object, const std::string& name) {
  std::string names;
  for (const Format& format : kFormats) {
    if (format.name == name) return format;
    names += (names.empty() ? "" : ", ") + std::string(format.name);
  }
  object.fail("format", "found \"" + printable(name) + "\", expected one of " + names);
}

CompressedWeights read_weights(const JsonObject& weights) {
  CompressedWeights out;
  out.bits = integer_in(weights, "num_bits", 1, 16);
  out.type = weights.find_string("type").value_or("int");
  out.is_symmetric = weights.find_boolean("symmetric").value_or(true);
  out.strategy = weights.find_string("strategy").value_or("tensor");
  if (out.strategy == "group" || out.strategy == "tensor_group") {
    out.group = integer_in(weights, "group_size", 1, 1 << 20);
  } else if (out.strategy == "block") {
    const auto* block = weights.find("block_structure");
    for (size_t i = 0; i < 2; ++i) {
      const bool is_pair = block != nullptr && block->is_array() && block->size() == 2;
      const bool is_good = is_pair && (*block)[i].is_number_unsigned() &&
                           (*block)[i].get<uint64_t>() >= 1 &&
                           (*block)[i].get<uint64_t>() <= 1 << 20;
      if (!is_good) weights.fail("block_structure", "expected a pair of positive integers");
      out.block[i] = (*block)[i].get<int64_t>();
    }
  } else if (out.strategy != "channel" && out.strategy != "tensor") {
    weights.fail("strategy", "found \"" + printable(out.strategy) +
                                 "\", expected tensor, channel, group, tensor_group or block");
  }
  return out;
}

class CompressedTensors : public QuantisedScheme {
 public:
  CompressedTensors(const JsonObject& config, const SafetensorsFolder& folder) : folder_(folder) {
    const std::string format = config.find_string("format").value_or("not named");
    const auto groups = config.find_object("config_groups");
    if (!groups) config.fail("config_groups", "is missing, expected how weights are stored");
    for (const auto& [name, value] : config.find("config_groups")->items()) {
      const JsonObject group(value, config.file(), "config_groups." + printable(name) + ".");
      const auto weights = group.find_object("weights");
      if (!weights) continue;  // only activations
      Group out;
      out.weights = read_weights(*weights);
      out.weights.format = group.find_string("format").value_or(format);
      // Of several formats the whole is called "mixed-precision", and each group has its own.
      out.format =
          &find_format(group.find("format") != nullptr ? group : config, out.weights.format);
      if (const auto* targets = group.find("targets"); targets != nullptr && targets->is_array()) {
        for (const auto& target : *targets) {
          if (target.is_string()) out.targets.push_back(checked(group, target.get<std::string>()));
        }
      }
      groups_.push_back(std::move(out));
    }
    if (groups_.empty()) config.fail("config_groups", "no group stores weights");
  }

  std::unique_ptr<QuantisedMatrix> find(const std::string& module, int64_t n,
                                        int64_t k) const override {
    const ModuleTensors tensors(folder_, module);
    const Group& group = group_of(module);
    if (!tensors.is_dtype(std::string(group.format->tensor), group.format->dtype)) {
      // Any other of its tensors is one too many for a module that is not quantised.
      for (const char* suffix : {".weight_packed", ".weight_scale", ".weight_zero_point"}) {
        if (!tensors.has(suffix)) continue;
        tensors.need(std::string(group.format->tensor), {group.format->dtype});
      }
      return nullptr;
    }
    return group.format->make(folder_, module, n, k, group.weights);
  }

 private:
  static std::string checked(const JsonObject& group, const std::string& target) {
    constexpr size_t kMost = 200;  // a pattern from anywhere: std::regex recurses
    if (target.size() > kMost) group.fail("targets", "a target has more than 200 characters");
    if (!target.starts_with("re:")) return target;
    try {
      const std::regex parsed(target.substr(3));
    } catch (const std::regex_error&) {
      group.fail("targets", "\"" + printable(target) + "\" is not a pattern that is read");
    }
    return target;
  }

  // A name before a pattern before a class of modules.
  static int rank(const std::string& target, const std::string& module) {
    if (target == module) return 3;
    if (target.starts_with("re:")) {
      const auto from_start = std::regex_constants::match_continuous;
      return std::regex_search(module, std::regex(target.substr(3)), from_start) ? 2 : 0;
    }
    return target == "Linear" ? 1 : 0;
  }

  const Group& group_of(const std::string& module) const {
    if (groups_.size() == 1) return groups_.front();
    const Group* best = &groups_.front();
    int most = 0;
    for (const Group& group : groups_) {
      for (const std::string& target : group.targets) {
        if (const int found = rank(target, module); found > most) {
          most = found;
          best = &group;
        }
      }
    }
    return *best;
  }

  const SafetensorsFolder& folder_;
  std::vector<Group> groups_;
};

}  // namespace

std::unique_ptr<QuantisedScheme> open_compressed_tensors(const JsonObject& config,
                                                         const SafetensorsFolder& folder) {
  return std::make_unique<CompressedTensors>(config, folder);
}

}  // namespace hotset
