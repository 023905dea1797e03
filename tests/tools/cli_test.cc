// What a user sees of the binary: exit codes, which stream, and the commands on the demo model.
#include "tests/tools/cli.h"

#include "runtime/weights/model_description.h"

namespace hotset {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

const std::string kBfloat16 = HOTSET_SOURCE_DIR "/tests/data/models/qwen3_next-b";
const char* const kCommands[] = {"run",  "eval",   "tokenize", "inspect",    "bench", "quantize",
                                 "pack", "config", "simulate", "trace info", "ctl",   "cache"};

TEST_F(CliTest, EveryCommandHasHelpWithAnExampleAndJson) {
  for (const std::string command : kCommands) {
    const Result result = hotset(command + " --help");
    EXPECT_EQ(result.exit_code, 0) << command;
    EXPECT_THAT(result.out, HasSubstr("Example:\n  ")) << command;
    EXPECT_THAT(result.out, HasSubstr("--json")) << command;
    EXPECT_EQ(result.err, "") << command;
  }
}

TEST_F(CliTest, UsageAndConfigurationErrorsAreExitCode2) {
  expect_error("", 2, "--help");
  expect_error("frobnicate", 2, "--help");
  expect_error("run", 2, "--model");
  expect_error("run -m x --frobnicate", 2, "--frobnicate");
  expect_error("quantize x -o y --type q5_1", 2, "q4_0");
  expect_error("eval -m x", 2, "--ids");
  expect_error("run -m x -p y --set cpu.thraeds=1", 2, "cpu.threads");
  expect_error("run -m x -p y --ram lots", 2, "ram");
  expect_error("run -m x -p y --set pack.sidecar=on", 2, "auto, off");
  expect_error("run -m x -p y --config no.yaml", 2, "no.yaml");
}

TEST_F(CliTest, AWrongWorldIsExitCode1AndNamed) {
  expect_error("run -m no-such.gguf -p x", 1, "no-such.gguf");
  expect_error("inspect " HOTSET_SOURCE_DIR "/tests/data/bad/gguf/magic.gguf", 1, "magic.gguf");
  expect_error("tokenize -m " + folder_.string(), 1, "tokenizer.json");
  expect_error("eval -m " + kDemo + " --ids 1,2048", 1, "2048");
  expect_error("run -q -m " + kDemo + " --ctx 8 -p 'What is the capital of France?'", 1, "context");
  expect_error("quantize " + kDemo + " -o " + path("twice.gguf"), 1, "twice loses");
}

TEST_F(CliTest, CtrlCIsExitCode130AndSaysNothing) {
  const Result result = hotset("bench -r 1000000 -m " + kDemo, kCtrlC);
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_EQ(result.out + result.err, "");
}

TEST_F(CliTest, SigtermAndSighupEndCleanlyWithCodesOfTheirOwn) {
  const std::pair<const char*, int> cases[] = {{"TERM", 143}, {"HUP", 129}};
  for (const auto& [name, expected] : cases) {
    const std::string command = std::string("timeout --preserve-status -s ") + name +
                                " 0.7 " HOTSET_BINARY " bench -r 1000000 -m " + kDemo + " > " +
                                path("out") + " 2> " + path("err");
    const int status = std::system(command.c_str());
    ASSERT_TRUE(WIFEXITED(status)) << name;  // not killed by it
    EXPECT_EQ(WEXITSTATUS(status), expected) << name;
    EXPECT_EQ(content(path("out")) + content(path("err")), "") << name;
  }
}

TEST_F(CliTest, ASighupThatWasIgnoredBeforeStaysIgnored) {
  const std::string command =
      "(trap '' HUP; exec " HOTSET_BINARY " bench -r 1000000 -m " + kDemo + ") > " + path("out") +
      " 2> " + path("err") +
      " & pid=$!; sleep 0.5; kill -HUP $pid; sleep 0.2; kill -TERM $pid; wait $pid";
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 143) << "it ran until it was terminated";
}

TEST_F(CliTest, RunAnswersOnStdoutAndSpeaksOnStderr) {
  const Result result = hotset("run -m " + kDemo + " -p 'What is 2+2?' --ram 20%");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "4\n");
  EXPECT_THAT(result.err, HasSubstr("memory: "));
  EXPECT_THAT(result.err, HasSubstr("hit rate"));
  const Result quiet = hotset("run -q -m " + kDemo + " -p 'What is 2+2?'");
  EXPECT_EQ(quiet.out, "4\n");
  EXPECT_EQ(quiet.err, "");
}

TEST_F(CliTest, ThePromptMayComeFromAFileOrStandardInput) {
  std::ofstream(path("prompt")) << "What is 2+2?";
  EXPECT_EQ(hotset("run -q -m " + kDemo + " --file " + path("prompt")).out, "4\n");
  EXPECT_EQ(hotset("run -q -m " + kDemo + " < " + path("prompt")).out, "4\n");
}

TEST_F(CliTest, RunJsonHasTheFieldsAndNothingElseIsSaid) {
  const Result result = hotset("run --json -n 2 -m " + kDemo + " -p 'Who are you?' --ram 30%");
  EXPECT_EQ(result.err, "");
  const json out = json::parse(result.out);
  for (const char* key : {"text", "ids", "prompt_tokens", "generated_tokens", "prefill_tps",
                          "decode_tps", "ttft_ms", "load_ms", "expert_hits", "expert_misses",
                          "hit_rate", "bytes_read", "finish_reason", "device", "card"}) {
    EXPECT_TRUE(out.contains(key)) << key;
  }
  EXPECT_EQ(out.size(), 15u);
  EXPECT_EQ(out["finish_reason"], "length");
  EXPECT_EQ(out["generated_tokens"], 2);
  EXPECT_EQ(out["ids"].size(), 2u);
}

TEST_F(CliTest, ASeedRepeatsTheText) {
  const std::string sampled = "run -q --raw -n 30 --temp 1.5 -m " + kDemo + " -p 'In the' --seed ";
  const Result first = hotset(sampled + "1");
  EXPECT_EQ(first.out, hotset(sampled + "1").out);
  EXPECT_NE(first.out, hotset(sampled + "2").out);
}

TEST_F(CliTest, TokenizeGoesThereAndBack) {
  std::ofstream(path("text")) << "Hello <|im_end|>";
  const json plain = hotset_json("tokenize --no-special -m " + kDemo + " < " + path("text"));
  const json special = hotset_json("tokenize -m " + kDemo + " < " + path("text"));
  EXPECT_GT(plain.size(), special.size());
  std::ofstream(path("ids")) << special;
  const std::string decode = "tokenize --decode -m " + kDemo + " < " + path("ids");
  EXPECT_EQ(hotset(decode).out, "Hello <|im_end|>");
  EXPECT_EQ(hotset(decode + " --no-special").out, "Hello ");
}

TEST_F(CliTest, EvalWritesArraysOfTheShapesPromised) {
  const json out =
      hotset_json("eval --json -m " + kDemo + " --ids 5,6,7,8,9 --chunk 2 --greedy 3" +
                  " --logits " + path("l.npy") + " --routing " + path("r.npy") + " --weights " +
                  path("w.npy") + " --hidden " + path("h.npy") + " --states " + path("s"));
  EXPECT_EQ(out["tokens"], 5);
  EXPECT_EQ(out["greedy"].size(), 3u);
  EXPECT_GT(out["perplexity"], 1.0);
  EXPECT_THAT(content(path("l.npy")), HasSubstr("(5, 2048)"));
  EXPECT_THAT(content(path("r.npy")), HasSubstr("(5, 6, 8)"));
  EXPECT_THAT(content(path("w.npy")), HasSubstr("(5, 6, 8)"));
  EXPECT_THAT(content(path("h.npy")), HasSubstr("(7, 5, 256)"));
  EXPECT_THAT(content(path("s/conv_state.0.npy")), HasSubstr("(512, 3)"));
  EXPECT_THAT(content(path("s/recurrent_state.4.npy")), HasSubstr("(4, 64, 64)"));
  EXPECT_FALSE(std::filesystem::exists(path("s/conv_state.2.npy"))) << "full attention";
}

TEST_F(CliTest, TheBudgetChangesHitsAndNotLogits) {
  const std::string eval = "eval --json -m " + kDemo + " --ids 1,2,3,4,5,6,7,8 --decode --logits ";
  const json all = hotset_json(eval + path("all.npy"));
  const json few = hotset_json(eval + path("few.npy") + " --ram 15%");
  EXPECT_EQ(all["expert_misses"], 0);
  EXPECT_GT(few["expert_misses"], 0);
  EXPECT_EQ(content(path("all.npy")), content(path("few.npy")));
}

TEST_F(CliTest, InspectSaysWhatTheModelIs) {
  const json out = hotset_json("inspect --json --verify --tensors --plan --ram 20% " + kDemo);
  EXPECT_EQ(out["architecture"], "qwen3_next");
  EXPECT_EQ(out["experts"], 128);
  EXPECT_EQ(out["verified"], true);
  EXPECT_EQ(out["tensor_list"].size(), out["tensors"]);
  EXPECT_LT(out["plan"]["experts"].get<int64_t>(), out["plan"]["experts_all"].get<int64_t>() / 4);
  EXPECT_THAT(hotset("inspect " + kDemo).out, HasSubstr("128 a layer, 8 a token"));
}

TEST_F(CliTest, APlanForACardSaysWhereItsBytesGoAndThatNothingWasMeasured) {
  const std::string fox = " -p \"Tell me a long story about a fox\" --temp 0 -n 40";
  ASSERT_EQ(hotset("run -m " + kDemo + fox + " --trace " + path("t")).exit_code, 0);
  const json card =
      hotset_json("inspect --json --plan --vram 785MB --trace " + path("t") + " " + kDemo)["card"];
  int64_t sum = 0;
  for (const auto& [name, bytes] : card["bytes"].items()) {
    if (name != "vram" && name != "experts_all") sum += bytes.get<int64_t>();
  }
  EXPECT_LE(sum, 785'000'000);
  EXPECT_GT(card["slots"], 0);
  EXPECT_GT(card["bytes"]["prompt_ring"], 0);
  const std::string settings = " --set prompt.ring=0 --set ctx=64 ";
  const json other =
      hotset_json("inspect --json --plan --vram 785MB" + settings + kDemo)["card"]["bytes"];
  EXPECT_EQ(other["prompt_ring"], 0);
  EXPECT_LT(other["kv"], card["bytes"]["kv"]);
  EXPECT_LT(card["bytes"]["experts"], card["bytes"]["experts_all"]);
  EXPECT_GT(card["simulated"]["hit_rate"], 0.0);
  EXPECT_LE(card["simulated"]["hit_rate"], card["simulated"]["belady_hit_rate"]);
  double lanes = 0;
  for (const auto& [lane, ms] : card["simulated"]["ms_by_lane"].items()) lanes += ms.get<double>();
  EXPECT_NEAR(lanes, card["simulated"]["token_ms"].get<double>(), 1e-9);
  EXPECT_THAT(hotset("inspect --plan --vram 10GB " + kDemo).out,
              HasSubstr("not measured on a card"));
  expect_error("inspect --json --plan --vram 751MB " + kDemo, 1, "card's memory is too small");
  expect_error("inspect --plan --vram 50% " + kDemo, 2, "--vram");
}

TEST_F(CliTest, BenchReportsRatesAgainstTheMemory) {
  const json out = hotset_json("bench --json -p 8 -n 4 -r 2 --depth 3 -m " + kDemo);
  for (const char* key : {"prefill_tps", "decode_tps"}) {
    EXPECT_GT(out[key]["min"], 0.0);
    EXPECT_LE(out[key]["min"], out[key]["median"]);
    EXPECT_LE(out[key]["median"], out[key]["max"]);
  }
  for (const char* key : {"bytes_per_token", "decode_gbps", "read_gbps", "read_gbps_4k", "load_ms",
                          "resident_ms", "peak_rss_bytes", "threads"}) {
    EXPECT_GT(out[key], 0) << key;
  }
  EXPECT_GE(out["resident_ms"], out["load_ms"]);
  EXPECT_LE(out["huge_page_share"].get<double>(), 1.0);
  EXPECT_EQ(out["hit_rate"], 1.0) << "all experts fit";
  EXPECT_EQ(out["expert_misses"], 0);
  EXPECT_EQ(out["bytes_read"], 10616832) << "what filling has read: every expert once";
  EXPECT_EQ(out["routing"], "router");
  EXPECT_FALSE(out["prefetch"]["on"]) << "there is nothing to read ahead";
  EXPECT_EQ(out.size(), 19u);
}

TEST_F(CliTest, QuantizeKeepsTheModelAndItsVocabulary) {
  const std::string output = path("q.gguf");
  const Result result = hotset("quantize " + kBfloat16 + " -o " + output + " --type q8_0");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "");
  ModelDescription source = open_model(kBfloat16);
  const ModelDescription quantised = open_model(output);
  // float32 keys of a GGUF.
  source.config.rms_norm_eps = static_cast<float>(source.config.rms_norm_eps);
  EXPECT_EQ(source.config, quantised.config);
  EXPECT_EQ(source.stop_ids, quantised.stop_ids);
  EXPECT_EQ(source.chat_template, quantised.chat_template);
  EXPECT_EQ(source.vocabulary->merges, quantised.vocabulary->merges);
  for (size_t i = 0; i < source.layers.size(); ++i) {
    EXPECT_EQ(source.layers[i].is_delta_net, quantised.layers[i].is_delta_net);
    EXPECT_EQ(source.layers[i].mixer_norm, quantised.layers[i].mixer_norm);
    EXPECT_EQ(source.layers[i].delta_net.a, quantised.layers[i].delta_net.a);
  }
  // Q8_0 changes little: the same tokens are about as probable.
  const std::string ids = " --ids 10,20,30,40,50,60 --json";
  const json before = hotset_json("eval -m " + kBfloat16 + ids);
  const json after = hotset_json("eval -m " + output + ids);
  EXPECT_NEAR(before["mean_logprob"], after["mean_logprob"], 0.1);
}

}  // namespace
}  // namespace hotset
