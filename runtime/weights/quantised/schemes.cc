// Which quantisation schemes are read, by the name that config.json gives them.
#include "runtime/weights/quantised/schemes.h"

#include <filesystem>
#include <string_view>

#include "kernels/check.h"
#include "runtime/weights/messages.h"
#include "runtime/weights/safetensors.h"

namespace hotset {
namespace {

struct Scheme {
  std::string_view method;
  OpenScheme* open;
};

constexpr Scheme kSchemes[] = {
    {"bitsandbytes", open_bitsandbytes},
    {"gptq", open_gptq},
    {"awq", open_awq},
    {"compressed-tensors", open_compressed_tensors},
    {"fp8", open_fp8_blocks},
    {"mxfp4", open_mxfp4},
};

// A module that is quantised, for messages: the first that has a tensor of no float type of ours.
std::string a_quantised_module(const SafetensorsFolder& folder) {
  const auto tensors = folder.others();
  if (tensors.empty()) return "none of its modules";
  const std::string& tensor = tensors.front()->info.name;
  return "module " + printable(tensor.substr(0, tensor.rfind('.'))) + " and others";
}

[[noreturn]] void refuse(const JsonObject& object, const char* key, const std::string& scheme,
                         const SafetensorsFolder& folder) {
  std::string names;
  for (const Scheme& known : kSchemes) {
    names += (names.empty() ? "" : ", ") + std::string(known.method);
  }
  object.fail(key, scheme + " (" + a_quantised_module(folder) +
                       "), expected one of those that are read: " + names +
                       "; or use a GGUF of the model, or its folder in bfloat16");
}

std::string quoted(const JsonObject& object, const char* key) {
  return "\"" + printable(object.find_string(key).value_or("not named")) + "\"";
}

// ModelOpt says in a file of its own what newer folders of it also say in config.json.
void refuse_modelopt(const SafetensorsFolder& folder) {
  const std::string file = folder.folder() + "/hf_quant_config.json";
  if (!std::filesystem::exists(file)) return;
  const nlohmann::json document = read_json_file(file);
  const JsonObject root(document, file);
  const JsonObject quantisation = root.find_object("quantization").value_or(root);
  refuse(quantisation, "quant_algo", "ModelOpt's is " + quoted(quantisation, "quant_algo"), folder);
}

}  // namespace

std::unique_ptr<QuantisedScheme> open_scheme(const nlohmann::json& config, const std::string& file,
                                             const SafetensorsFolder& folder) {
  refuse_modelopt(folder);
  const JsonObject root(config, file);
  const JsonObject text = root.find_object("text_config").value_or(root);
  for (const JsonObject* object : {&root, &text}) {
    for (const char* key : {"quantization_config", "compression_config"}) {
      const auto quantisation = object->find_object(key);
      if (!quantisation) continue;
      const std::string method = quantisation->find_string("quant_method").value_or("");
      for (const Scheme& scheme : kSchemes) {
        if (scheme.method == method) return scheme.open(*quantisation, folder);
      }
      std::string name = "quant_method is " + quoted(*quantisation, "quant_method");
      if (quantisation->find("quant_algo")) {
        name += ", quant_algo " + quoted(*quantisation, "quant_algo");
      }
      refuse(*object, key, name, folder);
    }
  }
  return nullptr;
}

}  // namespace hotset
