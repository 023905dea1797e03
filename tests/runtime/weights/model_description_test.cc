// Both containers, and all forms that occur in each, give one description of a model.
#include <gmock/gmock.h>

#include <cmath>

#include "kernels/check.h"
#include "runtime/weights/safetensors.h"
#include "tests/runtime/weights/model_files.h"

namespace hotset {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kNextFolder = data_path("models/qwen3_next-b");
const std::string kNextGguf = kNextFolder + "/qwen3_next-b-bf16.gguf";
const std::string kMoeFolder = data_path("models/qwen3_moe");
const std::string kMoeGguf = kMoeFolder + "/qwen3_moe-bf16.gguf";

TEST(ModelDescriptionTest, BothContainersOfQwen3NextDescribeTheSameModel) {
  const ModelDescription hf = open_model(kNextFolder), gguf = open_model(kNextGguf);
  expect_same_model(hf, gguf);
  EXPECT_TRUE(gguf.config.tie_word_embeddings);
  EXPECT_EQ(gguf.config.rotary_dim, 16);
  EXPECT_EQ(gguf.config.linear_value_head_dim, 32);
  EXPECT_TRUE(gguf.layers[0].is_delta_net);
  EXPECT_FALSE(gguf.layers[3].is_delta_net);
}

TEST(ModelDescriptionTest, BothContainersOfQwen3MoeDescribeTheSameModel) {
  expect_same_model(open_model(kMoeFolder), open_model(kMoeGguf));
}

TEST(ModelDescriptionTest, StopIdsAndDefaultsComeFromTheGenerationConfig) {
  EXPECT_THAT(open_model(kMoeFolder).stop_ids, ElementsAre(311, 309));
  EXPECT_THAT(open_model(kMoeGguf).stop_ids, ElementsAre(311));
  TempFolder folder;
  copy_hf_folder(kMoeFolder, folder);
  write_text(folder.file("generation_config.json"),
             R"({"do_sample": true, "temperature": 0.7, "top_k": 20, "eos_token_id": 5})");
  const ModelDescription model = open_model(folder.path());
  EXPECT_TRUE(model.generation.do_sample);
  EXPECT_FLOAT_EQ(model.generation.temperature, 0.7f);
  EXPECT_EQ(model.generation.top_k, 20);
  EXPECT_THAT(model.stop_ids, ElementsAre(311, 5));
}

TEST(ModelDescriptionTest, ReadRowsCrossesRangesAsOneMatrix) {
  const ModelDescription model = open_model(kNextFolder);
  const MatrixSource& qkv = model.layers[0].delta_net.qkv;
  ASSERT_GT(qkv.rows.size(), 1u);
  const std::vector<float> all = values_of(qkv);
  const int64_t stride = row_bytes(qkv.type, qkv.k);
  for (int64_t first = 0; first < qkv.n; first += 7) {
    for (const int64_t rows : {int64_t{1}, int64_t{40}, qkv.n - first}) {
      if (first + rows > qkv.n) continue;
      std::vector<std::byte> bytes(static_cast<size_t>(rows * stride));
      read_rows(qkv, first, rows, bytes);
      std::vector<float> values(static_cast<size_t>(rows * qkv.k));
      dequantise_row(qkv.type, bytes.data(), values.data(), rows * qkv.k);
      EXPECT_TRUE(std::equal(values.begin(), values.end(), all.begin() + first * qkv.k))
          << first << " + " << rows;
    }
  }
}

// Both containers keep b and a in groups of a key head, so comparing them would not show the order.
TEST(ModelDescriptionTest, BOfAllHeadsComesBeforeAOfAllHeads) {
  const std::vector<size_t> expected_rows = {0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11};
  const SafetensorsFolder folder(kNextFolder);
  const std::string file_rows =
      load_tensor(folder.need("model.layers.0.linear_attn.in_proj_ba.weight")).bytes;
  const ModelDescription model = open_model(kNextFolder);
  const MatrixSource& ba = model.layers[0].delta_net.ba;
  const auto stride = static_cast<size_t>(row_bytes(ba.type, ba.k));
  std::string rows(static_cast<size_t>(ba.bytes()), '\0');
  read_rows(ba, 0, ba.n, std::as_writable_bytes(std::span(rows)));
  for (size_t i = 0; i < expected_rows.size(); ++i) {
    EXPECT_TRUE(rows.substr(i * stride, stride) ==
                file_rows.substr(expected_rows[i] * stride, stride))
        << i;
  }
}

// The keys and tensors of a GGUF, to be changed and written again.
struct EditableGguf {
  GgufKeys keys;
  std::vector<TensorData> tensors;

  explicit EditableGguf(const std::string& path) {
    const GgufFile file(path);
    keys = file.keys();
    tensors = load_tensors(file.tensors());
  }
  TensorData take(const std::string& name) {
    for (auto at = tensors.begin(); at != tensors.end(); ++at) {
      if (at->name != name) continue;
      TensorData taken = std::move(*at);
      tensors.erase(at);
      return taken;
    }
    throw Error("no tensor " + name);
  }
};

TEST(GgufDescriptionTest, LegacyGroupedProjectionsGiveTheSameModel) {
  const SafetensorsFolder folder(kNextFolder);  // groups its rows as the legacy GGUF did
  EditableGguf file(kNextGguf);
  for (int i = 0; i < 8; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    const TensorInfo* grouped =
        folder.find("model.layers." + std::to_string(i) + ".linear_attn.in_proj_qkvz.weight");
    if (grouped == nullptr) continue;
    file.take(block + "attn_qkv.weight");
    file.take(block + "attn_gate.weight");
    file.tensors.push_back(load_tensor(*grouped));
    file.tensors.back().name = block + "ssm_in.weight";
  }
  TempFolder out;
  write_gguf(out.file("legacy.gguf"), file.keys, file.tensors);
  expect_same_model(open_model(out.file("legacy.gguf")), open_model(kNextGguf));
}

TEST(GgufDescriptionTest, FusedGateAndUpGiveTheSameModel) {
  EditableGguf file(kMoeGguf);
  for (int i = 0; i < 2; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    const TensorData gate = file.take(block + "ffn_gate_exps.weight");
    const TensorData up = file.take(block + "ffn_up_exps.weight");
    TensorData fused = gate;
    fused.name = block + "ffn_gate_up_exps.weight";
    fused.dims[1] *= 2;
    fused.bytes.clear();
    const size_t each = gate.bytes.size() / static_cast<size_t>(gate.dims[0]);
    for (size_t at = 0; at < gate.bytes.size(); at += each) {
      fused.bytes += gate.bytes.substr(at, each) + up.bytes.substr(at, each);
    }
    file.tensors.push_back(std::move(fused));
  }
  TempFolder out;
  write_gguf(out.file("fused.gguf"), file.keys, file.tensors);
  expect_same_model(open_model(out.file("fused.gguf")), open_model(kMoeGguf));
}

TEST(GgufDescriptionTest, RecurrentLayersOverrideTheInterval) {
  EditableGguf file(kNextGguf);
  file.keys["qwen3next.full_attention_interval"] = uint64_t{3};
  TempFolder out;
  write_gguf(out.file("m.gguf"), file.keys, file.tensors);
  EXPECT_THAT(refusal(out.file("m.gguf")), HasSubstr("blk.2.attn_q.weight is missing"));
  file.keys["qwen3next.attention.recurrent_layers"] =
      GgufFile::Array(std::vector<int64_t>{1, 1, 1, 0, 1, 1, 1, 0});
  write_gguf(out.file("m.gguf"), file.keys, file.tensors);
  expect_same_model(open_model(out.file("m.gguf")), open_model(kNextGguf));
}

TEST(GgufDescriptionTest, PerLayerArraysOfEqualValuesAreScalars) {
  EditableGguf file(kMoeGguf);
  file.keys["qwen3moe.attention.head_count_kv"] = GgufFile::Array(std::vector<uint64_t>{2, 2});
  TempFolder out;
  write_gguf(out.file("m.gguf"), file.keys, file.tensors);
  expect_same_model(open_model(out.file("m.gguf")), open_model(kMoeGguf));
  file.keys["qwen3moe.attention.head_count_kv"] = GgufFile::Array(std::vector<uint64_t>{2, 4});
  write_gguf(out.file("m.gguf"), file.keys, file.tensors);
  EXPECT_THAT(refusal(out.file("m.gguf")), HasSubstr("head_count_kv"));
}

TEST(GgufDescriptionTest, AFileWithoutVocabularyOpens) {
  EditableGguf file(kMoeGguf);
  std::erase_if(file.keys, [](const auto& key) { return key.first.starts_with("tokenizer."); });
  file.keys["tokenizer.ggml.model"] = std::string("no_vocab");
  TempFolder out;
  write_gguf(out.file("m.gguf"), file.keys, file.tensors);
  const ModelDescription model = open_model(out.file("m.gguf"));
  EXPECT_FALSE(model.vocabulary.has_value());
  EXPECT_EQ(model.config.vocab_size, 320);
  EXPECT_TRUE(model.stop_ids.empty());
}

// Writes a model in three parts; `edit` may change a part's keys before they are written.
void write_split(const TempFolder& folder, const EditableGguf& model,
                 const std::function<void(size_t part, GgufKeys& keys)>& edit = {}) {
  const size_t total = model.tensors.size();
  for (size_t part = 0; part < 3; ++part) {
    GgufKeys keys = part == 0 ? model.keys : GgufKeys{};
    keys["split.no"] = uint64_t{part};
    keys["split.count"] = uint64_t{3};
    keys["split.tensors.count"] = static_cast<int64_t>(total);
    if (edit) edit(part, keys);
    const auto at = [&](size_t n) { return model.tensors.begin() + static_cast<int64_t>(n); };
    write_gguf(folder.file("m-0000" + std::to_string(part + 1) + "-of-00003.gguf"), keys,
               {at(total * part / 3), at(total * (part + 1) / 3)});
  }
}

TEST(SplitGgufTest, AnyPartOpensTheWholeModel) {
  TempFolder folder;
  write_split(folder, EditableGguf(kNextGguf));
  for (const char* part : {"m-00001-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    const ModelDescription model = open_model(folder.file(part));
    expect_same_model(model, open_model(kNextGguf));
    EXPECT_GT(model.file_bytes(), open_model(kNextGguf).file_bytes());
  }
}

TEST(SplitGgufTest, AMissingPartIsNamed) {
  TempFolder folder;
  write_split(folder, EditableGguf(kMoeGguf));
  std::filesystem::remove(folder.file("m-00002-of-00003.gguf"));
  EXPECT_THAT(refusal(folder.file("m-00001-of-00003.gguf")),
              AllOf(HasSubstr("m-00002-of-00003.gguf"), HasSubstr("missing")));
}

TEST(SplitGgufTest, WrongNumbersAreRefusedByKey) {
  const EditableGguf model(kMoeGguf);
  for (const std::string key : {"split.no", "split.count", "split.tensors.count"}) {
    for (const bool dropped : {false, true}) {
      TempFolder folder;
      write_split(folder, model, [&](size_t part, GgufKeys& keys) {
        if (part != 1) return;
        keys[key] = uint64_t{7};
        if (dropped) keys.erase(key);
      });
      EXPECT_THAT(refusal(folder.file("m-00001-of-00003.gguf")),
                  AllOf(HasSubstr("m-00002-of-00003.gguf"), HasSubstr(key)));
    }
  }
}

TEST(SplitGgufTest, APartUnderAnotherNameIsRefused) {
  TempFolder folder;
  write_split(folder, EditableGguf(kMoeGguf));
  std::filesystem::rename(folder.file("m-00001-of-00003.gguf"), folder.file("renamed.gguf"));
  EXPECT_THAT(refusal(folder.file("renamed.gguf")),
              AllOf(HasSubstr("split.count"), HasSubstr("NAME-00001-of-00003.gguf")));
}

TEST(SplitGgufTest, ATensorInTwoPartsIsRefused) {
  EditableGguf model(kMoeGguf);
  model.tensors.push_back(model.tensors.front());
  TempFolder folder;
  write_split(folder, model);
  EXPECT_THAT(refusal(folder.file("m-00001-of-00003.gguf")), HasSubstr("occurs twice"));
}

// A folder's config.json after `edit`, described.
ModelDescription with_config(const std::string& from, const std::function<void(json&)>& edit) {
  TempFolder folder;
  copy_hf_folder(from, folder);
  json config = read_config(folder);
  edit(config);
  write_config(folder, config);
  return open_model(folder.path());
}

std::string refused_config(const std::string& from, const std::function<void(json&)>& edit) {
  try {
    with_config(from, edit);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(HfDescriptionTest, RopeSettingsOfAllSpellingsAreRead) {
  const auto check = [](const json& settings, double theta, int64_t rotary_dim) {
    const ModelDescription model = with_config(kNextFolder, [&](json& config) {
      config.erase("rope_parameters");
      config.update(settings);
    });
    EXPECT_EQ(model.config.rope_theta, theta) << settings;
    EXPECT_EQ(model.config.rotary_dim, rotary_dim) << settings;
  };
  check({{"rope_theta", 5000.0}}, 5000, 8);  // of 32: the architecture's own quarter
  check({{"rope_theta", 5000.0}, {"partial_rotary_factor", 0.5}}, 5000, 16);
  check({{"rope_theta", 5000.0}, {"rope_scaling", {{"type", "default"}, {"rope_theta", 7000}}}},
        7000, 8);
  check({{"rope_theta", 5000.0},
         {"rope_scaling", {{"rope_theta", 7000}}},
         {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 9000}}}},
        9000, 8);
  check({{"rope_parameters",
          {{"full_attention", {{"rope_theta", 9000}, {"partial_rotary_factor", 1}}}}}},
        9000, 32);
}

TEST(HfDescriptionTest, ScaledRopeIsRefused) {
  EXPECT_THAT(refused_config(kMoeFolder,
                             [](json& c) {
                               c["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
                             }),
              AllOf(HasSubstr("rope_scaling.rope_type"), HasSubstr("yarn")));
}

TEST(HfDescriptionTest, SettingsThatWouldChangeTheArithmeticAreRefused) {
  const std::vector<std::pair<std::string, json>> settings = {
      {"decoder_sparse_step", 2},
      {"mlp_only_layers", {0}},
      {"attention_bias", true},
      {"hidden_act", "gelu"},
      {"use_sliding_window", true},
      {"norm_topk_prob", nullptr},
      {"layer_types", {"full_attention", "sliding_attention"}}};
  for (const auto& setting : settings) {
    EXPECT_THAT(refused_config(kMoeFolder, [&](json& c) { c[setting.first] = setting.second; }),
                AllOf(HasSubstr("config.json"), HasSubstr(setting.first)));
  }
}

TEST(HfDescriptionTest, NormTopkProbIsReadNotAssumed) {
  const auto set = [](bool value) {
    return with_config(kMoeFolder, [&](json& c) { c["norm_topk_prob"] = value; });
  };
  EXPECT_TRUE(set(true).config.norm_topk_prob);
  EXPECT_FALSE(set(false).config.norm_topk_prob);
}

TEST(HfDescriptionTest, LayerKindsFollowTheListElseTheInterval) {
  const auto edit = [](json& config) {
    config.erase("layer_types");
    config["full_attention_interval"] = 4;
  };
  expect_same_model(with_config(kNextFolder, edit), open_model(kNextFolder));
  EXPECT_THAT(refused_config(kNextFolder, [](json& c) { c["full_attention_interval"] = 2; }), "");
  EXPECT_THAT(refused_config(kNextFolder,
                             [&](json& c) {
                               edit(c);
                               c["full_attention_interval"] = 2;
                             }),
              HasSubstr("model.layers.1.self_attn.q_proj.weight"));
}

TEST(HfDescriptionTest, ANestedTextConfigIsRead) {
  const ModelDescription nested = with_config(kMoeFolder, [](json& config) {
    const json text = config;
    config = {{"model_type", "wrapper"}, {"text_config", text}};
  });
  expect_same_model(nested, open_model(kMoeFolder));
}

TEST(HfDescriptionTest, FusedExpertsGiveTheSameModelUnderBothNames) {
  for (const std::string suffix : {"", ".weight"}) {
    TempFolder folder;
    copy_hf_folder(kMoeFolder, folder);
    const SafetensorsFolder source(kMoeFolder);
    std::map<std::string, TensorData> tensors;
    for (TensorData& tensor : load_tensors(source.tensors())) tensors[tensor.name] = tensor;
    for (int layer = 0; layer < 2; ++layer) {
      const std::string experts = "model.layers." + std::to_string(layer) + ".mlp.experts.";
      TensorData gate_up{experts + "gate_up_proj" + suffix, TensorType::kBF16, {32, 64, 64}, ""};
      TensorData down{experts + "down_proj" + suffix, TensorType::kBF16, {32, 64, 32}, ""};
      for (int e = 0; e < 32; ++e) {
        const std::string expert = experts + std::to_string(e) + ".";
        gate_up.bytes += tensors.extract(expert + "gate_proj.weight").mapped().bytes;
        gate_up.bytes += tensors.extract(expert + "up_proj.weight").mapped().bytes;
        down.bytes += tensors.extract(expert + "down_proj.weight").mapped().bytes;
      }
      tensors[gate_up.name] = gate_up;
      tensors[down.name] = down;
    }
    std::vector<TensorData> all;
    for (auto& [name, tensor] : tensors) all.push_back(std::move(tensor));
    write_safetensors(folder.file("model.safetensors"), all);
    expect_same_model(open_model(folder.path()), open_model(kMoeFolder));
  }
}

TEST(HfDescriptionTest, ShardsGiveTheSameModel) {
  TempFolder folder;
  copy_hf_folder(kMoeFolder, folder);
  std::filesystem::remove(folder.file("model.safetensors"));
  const SafetensorsFolder source(kMoeFolder);
  std::vector<TensorData> shards[2];
  json weight_map;
  for (TensorData& tensor : load_tensors(source.tensors())) {
    const size_t shard = weight_map.size() % 2;
    weight_map[tensor.name] = "model-" + std::to_string(shard) + ".safetensors";
    shards[shard].push_back(std::move(tensor));
  }
  for (const size_t i : {0, 1}) {
    write_safetensors(folder.file("model-" + std::to_string(i) + ".safetensors"), shards[i]);
  }
  write_text(folder.file("model.safetensors.index.json"), json{{"weight_map", weight_map}}.dump());
  expect_same_model(open_model(folder.path()), open_model(kMoeFolder));
}

TEST(HfDescriptionTest, ChatTemplatesOfAllPlacesAreRead) {
  TempFolder folder;
  copy_hf_folder(kMoeFolder, folder);
  write_text(folder.file("tokenizer_config.json"),
             R"({"chat_template": [{"name": "tool_use", "template": "T"},
                                   {"name": "default", "template": "D"}]})");
  EXPECT_EQ(open_model(folder.path()).chat_template, "D");
  write_text(folder.file("chat_template.jinja"), "J");
  EXPECT_EQ(open_model(folder.path()).chat_template, "J");
}

}  // namespace
}  // namespace hotset
