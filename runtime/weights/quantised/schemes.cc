// Which quantisation schemes are read, by the name that config.json gives them.
#include "runtime/weights/quantised/schemes.h"

#include <string_view>

#include "kernels/check.h"
#include "runtime/weights/messages.h"

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

}  // namespace

std::unique_ptr<QuantisedScheme> open_scheme(const nlohmann::json& config, const std::string& file,
                                             const SafetensorsFolder& folder) {
  const JsonObject root(config, file);
  const JsonObject text = root.find_object("text_config").value_or(root);
  for (const JsonObject* object : {&root, &text}) {
    for (const char* key : {"quantization_config", "compression_config"}) {
      const auto quantisation = object->find_object(key);
      if (!quantisation) continue;
      const std::string method = quantisation->find_string("quant_method").value_or("not named");
      std::string names;
      for (const Scheme& scheme : kSchemes) {
        if (scheme.method == method) return scheme.open(*quantisation, folder);
        names += (names.empty() ? "" : ", ") + std::string(scheme.method);
      }
      object->fail(key, "quant_method is \"" + printable(method) + "\", expected one of those " +
                            "that are read: " + names +
                            "; or use a GGUF of the model, or its folder in bfloat16");
    }
  }
  return nullptr;
}

}  // namespace hotset
