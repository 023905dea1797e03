// What `hotset inspect` says of quantised checkpoints, for each format of tests/data/quantised, and
// that the README's table says the same.
#include <fmt/format.h>

#include <numeric>
#include <sstream>

#include "tests/support/quantised_layers.h"
#include "tests/tools/cli.h"
#include "tools/quantised_report.h"

namespace hotset {
namespace {

struct Said {
  const char *format, *row;  // the README's
  const char *scheme, *group, *layout, *grade;
};

constexpr Said kTable[] = {
    {"awq_gemm", "awq, gemm", "awq, 4 bits", "32", "4 bits", "exact"},
    {"awq_gemm_g128", "awq, gemm", "awq, 4 bits", "128", "4 bits", "exact"},
    {"bnb_fp4", "bitsandbytes, FP4", "bitsandbytes FP4", "64", "4 bits, 16-bit table", "rounded"},
    {"bnb_fp4_dq", "bitsandbytes, FP4", "bitsandbytes FP4, double-quantised", "64",
     "4 bits, 16-bit table", "rounded"},
    {"bnb_int8", "bitsandbytes, LLM.int8", "bitsandbytes LLM.int8", "row", "8 bits", "rounded"},
    {"bnb_nf4", "bitsandbytes, NF4", "bitsandbytes NF4", "64", "4 bits, 16-bit table",
     "within 1.4e-05 of a block's largest weight"},
    {"bnb_nf4_dq", "bitsandbytes, NF4", "bitsandbytes NF4, double-quantised", "64",
     "4 bits, 16-bit table", "within 1.4e-05 of a block's largest weight"},
    {"ct_fp8_block", "compressed-tensors float-quantized; fp8",
     "compressed-tensors float-quantized, by block", "128", "e4m3", "exact"},
    {"ct_fp8_channel", "compressed-tensors float-quantized; fp8",
     "compressed-tensors float-quantized, by channel", "row", "e4m3", "exact"},
    {"ct_fp8_tensor", "compressed-tensors float-quantized; fp8",
     "compressed-tensors float-quantized, by tensor", "row", "e4m3", "exact"},
    {"ct_int3_group", "compressed-tensors pack-quantized",
     "compressed-tensors pack-quantized, 3 bits", "32", "4 bits", "exact"},
    {"ct_int4_actorder", "compressed-tensors pack-quantized",
     "compressed-tensors pack-quantized, 4 bits, act-order", "32", "4 bits", "exact"},
    {"ct_int4_asym", "compressed-tensors pack-quantized",
     "compressed-tensors pack-quantized, 4 bits, asymmetric", "32", "4 bits", "exact"},
    {"ct_int4_asym_actorder", "compressed-tensors pack-quantized",
     "compressed-tensors pack-quantized, 4 bits, asymmetric, act-order", "32", "4 bits", "exact"},
    {"ct_int4_sym", "compressed-tensors pack-quantized",
     "compressed-tensors pack-quantized, 4 bits", "32", "4 bits", "exact"},
    {"ct_int8_channel", "compressed-tensors pack-quantized",
     "compressed-tensors pack-quantized, 8 bits", "row", "8 bits", "exact"},
    {"ct_mxfp4", "compressed-tensors mxfp4-pack-quantized",
     "compressed-tensors mxfp4-pack-quantized", "32", "4 bits", "exact"},
    {"ct_nvfp4", "compressed-tensors nvfp4-pack-quantized",
     "compressed-tensors nvfp4-pack-quantized", "16", "4 bits", "rounded"},
    {"ct_w8_asym", "compressed-tensors int-quantized",
     "compressed-tensors int-quantized, 8 bits, asymmetric", "row", "8 bits", "exact"},
    {"ct_w8a8", "compressed-tensors int-quantized", "compressed-tensors int-quantized, 8 bits",
     "row", "8 bits", "exact"},
    {"fp8_block", "compressed-tensors float-quantized; fp8", "fp8, blocks of 128 x 128", "128",
     "e4m3", "exact"},
    {"fp8_block_f32_scales", "compressed-tensors float-quantized; fp8", "fp8, blocks of 128 x 128",
     "128", "e4m3", "exact"},
    {"gptq_v1_asym", "gptq", "gptq v1, 4 bits", "32", "4 bits", "exact"},
    {"gptq_v1_desc_act", "gptq", "gptq v1, 4 bits, act-order", "32", "4 bits", "exact"},
    {"gptq_v1_int8", "gptq", "gptq v1, 8 bits", "128", "8 bits", "exact"},
    {"gptq_v1_nogroup", "gptq", "gptq v1, 4 bits", "row", "4 bits", "exact"},
    {"gptq_v1_partial_group", "gptq", "gptq v1, 4 bits", "128", "4 bits", "exact"},
    {"gptq_v1_sym", "gptq", "gptq v1, 4 bits", "32", "4 bits", "exact"},
    {"gptq_v2_asym", "gptq", "gptq v2, 4 bits, act-order", "64", "4 bits", "exact"},
    {"mxfp4_gptoss", "mxfp4 (gpt-oss)", "mxfp4", "32", "4 bits", "exact"},
};

void PrintTo(const Said& said, std::ostream* out) {
  *out << said.format;
}

// The group of an e4m3 matrix is its row where a block is as wide as that.
void expect_said(const json& module, const Said& said) {
  const bool may_be_row = module["layout"] == "e4m3" && module["group"] == "row";
  EXPECT_EQ(module["scheme"], said.scheme);
  EXPECT_EQ(module["group"], std::string(may_be_row ? "row" : said.group));
  EXPECT_EQ(module["layout"], said.layout);
  EXPECT_EQ(module["grade"], said.grade);
}

// Rows that no packed layout holds are kept as floats.
bool is_packed(const json& module) {
  return module["layout"] != "f32";
}

// The README's row that begins so: what is packed how, and how near that is.
std::vector<std::string> readme_row(const std::string& begin) {
  std::ifstream file(fmt::format("{}/{}", HOTSET_SOURCE_DIR, "README.md"));
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("| " + begin)) continue;
    std::vector<std::string> cells;
    std::istringstream rest(line.substr(1));
    for (std::string cell; std::getline(rest, cell, '|');) cells.push_back(cell.substr(1));
    return cells;
  }
  return {};
}

class CheckpointTableTest : public CliTest, public testing::WithParamInterface<Said> {};

TEST_P(CheckpointTableTest, LayersAreDescribedSo) {
  int packed = 0;
  QuantisedLayers(GetParam().format)
      .for_each_layer([&](const QuantisedMatrix& matrix, const std::vector<float>&) {
        const json module = json::parse(describe_module(matrix, false).dump());
        if (!is_packed(module)) return;
        ++packed;
        Said said = GetParam();
        // Blocks of bitsandbytes go over the flat array; a row's are those that fit both.
        const bool is_flat =
            std::string(said.format).starts_with("bnb_") && module["group"] != "row";
        const std::string group = std::to_string(std::gcd(matrix.k(), int64_t{64}));
        if (is_flat) said.group = group.c_str();
        expect_said(module, said);
      });
  EXPECT_GT(packed, 0);
}

TEST_P(CheckpointTableTest, TheReadmeSaysTheSame) {
  const std::vector<std::string> row = readme_row(GetParam().row);
  ASSERT_EQ(row.size(), 4u) << GetParam().row;
  EXPECT_THAT(row[2], testing::HasSubstr(GetParam().layout));
  EXPECT_THAT(row[3], testing::StartsWith(GetParam().grade));
}

TEST_P(CheckpointTableTest, InspectShowsItForWholeCheckpoints) {
  for (const char* architecture : {"qwen3_next", "qwen3_moe"}) {
    const std::string folder = fmt::format("{}/tests/data/quantised/{}/{}", HOTSET_SOURCE_DIR,
                                           GetParam().format, architecture);
    if (!std::filesystem::exists(folder)) continue;
    const json found = hotset_json("inspect --json " + folder)["quantised"];
    int64_t modules = 0;
    for (const json& module : found) {
      if (!is_packed(module)) continue;
      modules += module["modules"].get<int64_t>();
      expect_said(module, GetParam());
    }
    EXPECT_GE(modules, 2 * 6 * 3) << folder;  // the experts' matrices, and more
    const std::string text = hotset("inspect " + folder).out;
    for (const char* word : {GetParam().scheme, GetParam().layout, GetParam().grade}) {
      EXPECT_THAT(text, testing::HasSubstr(word));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CheckpointTableTest, testing::ValuesIn(kTable),
                         [](const auto& info) { return std::string(info.param.format); });

TEST(CheckpointTableFormatsTest, AllAreThere) {
  std::vector<std::string> formats;
  for (const Said& said : kTable) formats.push_back(said.format);
  EXPECT_EQ(formats, quantised_formats());
}

}  // namespace
}  // namespace hotset
