// The schemes that are read: one opener a file of this folder. Internal to it.
#pragma once

#include "runtime/weights/json.h"
#include "runtime/weights/quantised/quantised.h"

namespace hotset {

// The scheme of a configuration's object. Looks at `folder` no sooner than find() is called.
using OpenScheme = std::unique_ptr<QuantisedScheme>(const JsonObject& config,
                                                    const SafetensorsFolder& folder);
OpenScheme open_bitsandbytes, open_gptq, open_awq, open_compressed_tensors, open_fp8_blocks,
    open_mxfp4;

// compressed-tensors' formats, each a way to store one module's weight.
struct CompressedWeights {  // an entry of config_groups
  int64_t bits = 4;
  std::string type, strategy, format;
  int64_t group = 0;          // "group" strategy
  int64_t block[2] = {0, 0};  // "block" strategy
  bool is_symmetric = true;
};
using MakeCompressed = std::unique_ptr<QuantisedMatrix>(const SafetensorsFolder& folder,
                                                        const std::string& module, int64_t n,
                                                        int64_t k,
                                                        const CompressedWeights& weights);
MakeCompressed make_pack_quantized, make_int_quantized, make_float_quantized, make_nvfp4_packed,
    make_mxfp4_packed;

// float8_e4m3fn codes [n, k] with scales for blocks of rows and columns; block 0: all of them.
std::unique_ptr<QuantisedMatrix> make_e4m3(const SafetensorsFolder& folder,
                                           const std::string& module, int64_t n, int64_t k,
                                           const char* scale_suffix, int64_t block_rows,
                                           int64_t block_columns, std::string scheme);

// The values of E2M1 by code.
inline constexpr std::array<float, 16> kE2m1 = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,
                                                4.0f,  6.0f,  -0.0f, -0.5f, -1.0f, -1.5f,
                                                -2.0f, -3.0f, -4.0f, -6.0f};

}  // namespace hotset
