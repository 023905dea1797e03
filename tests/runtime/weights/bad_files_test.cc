// Each file of tests/data/bad has one fault, and manifest.json says what its refusal must mention.
#include <gmock/gmock.h>

#include "tests/runtime/weights/model_files.h"
#include "tests/support/mentions.h"

namespace hotset {
namespace {

using nlohmann::json;

// Those whose files are kept here.
std::vector<json> faults() {
  std::vector<json> kept;
  const json manifest = json::parse(read_text(data_path("bad/manifest.json")));
  for (const json& fault : manifest["cases"]) {
    if (std::filesystem::exists(data_path("bad/" + fault["path"].get<std::string>()))) {
      kept.push_back(fault);
    }
  }
  return kept;
}

TEST(BadFilesTest, SoundFilesOpenAndVerify) {
  EXPECT_EQ(refusal(data_path("bad/good/model.gguf")), "");
  for (const char* folder : {"hf", "hf_bnb", "hf_gptq", "hf_awq", "hf_fp8", "hf_ct"}) {
    EXPECT_EQ(refusal(data_path(std::string("bad/good/") + folder)), "");
  }
}

TEST(BadFilesTest, EveryFaultIsRefusedByAMessageThatNamesIt) {
  EXPECT_EQ(faults().size(), 114u);
  for (const json& fault : faults()) {
    const std::string path = data_path("bad/" + fault["path"].get<std::string>());
    SCOPED_TRACE(fault.dump());
    const std::string message = refusal(path);
    EXPECT_NE(message, "") << "was accepted";
    for (const json& wanted : fault["mention"]) {
      EXPECT_TRUE(mentions(message, wanted)) << wanted << " is not in: " << message;
    }
  }
}

TEST(BadFilesTest, MessagesAreShortPrintableText) {
  for (const json& fault : faults()) {
    const std::string path = data_path("bad/" + fault["path"].get<std::string>());
    const std::string message = refusal(path);
    EXPECT_LT(message.size(), 1000u) << fault["path"];
    for (const char c : message) EXPECT_TRUE(c >= 32 && c < 127) << fault["path"] << message;
  }
}

TEST(BadFilesTest, AFileCutAnywhereIsRefused) {
  TempFolder folder;
  const std::string whole = read_text(data_path("bad/good/model.gguf"));
  for (size_t size = 0; size < whole.size(); size += 97) {
    write_text(folder.file("cut.gguf"), whole.substr(0, size));
    EXPECT_NE(refusal(folder.file("cut.gguf")), "") << size << " of " << whole.size() << " bytes";
  }
}

}  // namespace
}  // namespace hotset
