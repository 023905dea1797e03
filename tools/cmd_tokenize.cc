// `hotset tokenize`: text to ids and back, with a model's tokenizer and without its weights.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "runtime/tokenizer/gguf_vocabulary.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/weights/gguf.h"
#include "runtime/weights/json.h"
#include "tools/commands.h"
#include "tools/model_options.h"

namespace hotset {
namespace {

struct TokenizeOptions {
  std::string model;
  bool decode = false, no_special = false, json = false;
};

// Only the tokenizer is read: a folder need not hold a model, nor a file one that we can run.
Tokenizer open_tokenizer(const std::string& path) {
  namespace fs = std::filesystem;
  if (fs::is_directory(path)) return Tokenizer(read_tokenizer_json(path + "/tokenizer.json", 0));
  if (path.ends_with(".json")) return Tokenizer(read_tokenizer_json(path, 0));
  return Tokenizer(vocabulary_from_gguf(GgufFile(path)));
}

std::vector<int32_t> read_ids(const Tokenizer& tokenizer) {
  const nlohmann::json list = parse_json(read_text("-"), "standard input");
  if (!list.is_array()) throw Error("standard input: expected a JSON list of ids");
  std::vector<int32_t> ids;
  for (const auto& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= tokenizer.size()) {
      throw Error(fmt::format("standard input: found {}, expected ids from 0 to {}", id.dump(),
                              tokenizer.size() - 1));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void run_tokenize(const TokenizeOptions& options) {
  const Tokenizer tokenizer = open_tokenizer(options.model);
  if (options.decode) {
    const std::string bytes = tokenizer.decode(read_ids(tokenizer), !options.no_special);
    if (!options.json) {
      std::fwrite(bytes.data(), 1, bytes.size(), stdout);  // as they are, also where not UTF-8
      return;
    }
    Utf8Stream characters;
    const std::string begin = characters.push(bytes);
    fmt::print("{}\n", nlohmann::json{{"text", begin + characters.finish()}}.dump());
    return;
  }
  const std::vector<int32_t> ids = tokenizer.encode(
      read_text("-"), options.no_special ? SpecialTokens::kPlainText : SpecialTokens::kParse);
  fmt::print("{}\n", nlohmann::json(ids).dump());
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  const auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command =
      app.add_subcommand("tokenize", "Text on stdin to a JSON list of ids, or back");
  command
      ->add_option("-m,--model", options->model,
                   "a .gguf file, or a folder with a tokenizer.json (nothing else is needed)")
      ->required();
  command->add_flag("--decode", options->decode, "a JSON list of ids on stdin to text");
  command->add_flag("--no-special", options->no_special,
                    "control tokens spelled in the text are plain text; decoded they are nothing");
  command->add_flag("--json", options->json, "JSON output also for --decode: {\"text\": ...}");
  command->footer("Example:\n  echo -n 'Hello world' | hotset tokenize -m model.gguf");
  command->callback([options] { run_tokenize(*options); });
}

}  // namespace hotset
