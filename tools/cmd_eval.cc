// `hotset eval`: perplexity of given tokens, and the raw material of comparisons.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "runtime/engine.h"
#include "runtime/weights/json.h"
#include "tools/card_choice.h"
#include "tools/commands.h"
#include "tools/eval_recorder.h"
#include "tools/interrupt.h"
#include "tools/model_options.h"

namespace hotset {
namespace {

struct EvalOptions {
  ModelOptions model;
  std::string text_file, ids_file, states;
  std::vector<int32_t> ids;
  EvalFiles files;
  int64_t greedy = 0, chunk = 0;
  bool special = false, decode = false, json = false, reference = false;
};

std::vector<int32_t> ids_of_json(const std::string& path) {
  const nlohmann::json document = read_json_file(path);
  const bool has_ids = document.is_object() && document.contains("ids");
  const nlohmann::json& list = has_ids ? document["ids"] : document;
  if (!list.is_array()) throw Error(path + ": expected a list of ids, or an object with \"ids\"");
  std::vector<int32_t> ids;
  for (const auto& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      throw Error(fmt::format("{}: found {}, expected token ids", path, id.dump()));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::vector<int32_t> tokens_of(const EvalOptions& options) {
  if (!options.ids.empty()) return options.ids;
  if (!options.ids_file.empty()) return ids_of_json(options.ids_file);
  const ModelDescription description = open_model(options.model.model);
  if (!description.vocabulary) {
    throw Error(options.model.model +
                ": has no vocabulary (tokenizer.ggml.model is no_vocab); --ids and --ids-file take "
                "token ids");
  }
  return encode_plain(Tokenizer(*description.vocabulary), read_text(options.text_file),
                      options.special ? SpecialTokens::kParse : SpecialTokens::kPlainText);
}

void check_tokens(const std::vector<int32_t>& tokens, const Engine& engine, int64_t greedy) {
  if (tokens.empty()) throw ConfigError("there are no tokens to evaluate, expected at least one");
  if (std::ssize(tokens) + greedy > engine.context()) {
    throw ConfigError(fmt::format("{} tokens and {} greedy ones do not fit into a context of {}",
                                  tokens.size(), greedy, engine.context()));
  }
}

// conv_state.L.npy and recurrent_state.L.npy for each gated delta net layer L of the model.
void write_states(const Engine& engine, const Session& session, const std::string& folder) {
  std::filesystem::create_directories(folder);
  const ModelConfig& c = engine.config();
  const auto write = [&](const char* name, size_t layer, std::vector<int64_t> shape,
                         const std::vector<float>& values) {
    NpyFile<float> file(fmt::format("{}/{}.{}.npy", folder, name, layer), std::move(shape));
    file.write(0, values);
    file.commit();
  };
  int64_t index = 0;
  for (size_t layer = 0; layer < engine.description().layers.size(); ++layer) {
    if (!engine.description().layers[layer].is_delta_net) continue;
    write("conv_state", layer, {c.conv_channels(), c.linear_conv_kernel_dim - 1},
          session.conv_state(index));
    write("recurrent_state", layer,
          {c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim},
          session.recurrent_state(index));
    ++index;
  }
}

// The model's own choice among all ids, whether or not they have a token.
std::vector<int32_t> continue_greedily(Engine& engine, Session& session,
                                       std::span<const float> logits, int64_t count) {
  std::vector<int32_t> ids;
  while (std::ssize(ids) < count) {
    throw_if_interrupted();
    ids.push_back(best_id(logits));
    if (std::ssize(ids) < count) logits = feed(engine, session, {&ids.back(), 1});
  }
  return ids;
}

void run_eval(const EvalOptions& options) {
  const std::vector<int32_t> tokens = tokens_of(options);
  const auto configure = [&] {
    Config config = options.model.config();
    // As long as is needed, where it was not said.
    if (config.ctx == 0) config.ctx = std::max<int64_t>(1, std::ssize(tokens) + options.greedy);
    if (options.reference) config.kv.type = "f32";
    // What is measured must not depend on what ran before.
    if (!config.scores.workload) config.scores.save = "off";
    return config;
  };
  const LoadedModel model =
      load_model(options.model.model, configure(), configure, {}, options.reference);
  Engine& engine = *model.engine;
  check_tokens(tokens, engine, options.greedy);

  model.wait_until_resident();
  EvalRecorder recorder(engine.config(), tokens, options.files);
  const std::unique_ptr<TraceRecorder> trace = options.model.record(engine);
  Session session = engine.open_session();
  const auto start = std::chrono::steady_clock::now();
  feed(
      engine, session, tokens, options.decode ? 1 : options.chunk,
      [&](std::span<const float> logits) { recorder.on_logits(logits); }, &recorder);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  recorder.commit();
  if (!options.states.empty()) write_states(engine, session, options.states);

  const CacheStats& cache = engine.cache_stats();
  const double perplexity = std::exp(-recorder.mean_logprob());
  nlohmann::ordered_json out = {{"tokens", tokens.size()},
                                {"perplexity", perplexity},
                                {"mean_logprob", recorder.mean_logprob()},
                                {"seconds", seconds},
                                {"tokens_per_second", static_cast<double>(tokens.size()) / seconds},
                                {"expert_hits", cache.hits},
                                {"expert_misses", cache.misses},
                                {"hit_rate", cache.hit_rate()},
                                {"bytes_read", cache.bytes_read},
                                {"device", model.device},
                                {"card", card_json(engine)},
                                {"isa", engine.isa()},
                                {"threads", engine.threads()}};
  if (options.greedy > 0) {
    out["greedy"] = continue_greedily(engine, session, recorder.last_logits(), options.greedy);
  }
  fmt::print("{}\n", out.dump());
  if (!options.json) {
    fmt::print(stderr, "{} tokens, perplexity {:.4f}, {:.2f} s\n", tokens.size(), perplexity,
               seconds);
  }
}

}  // namespace

void add_eval_command(CLI::App& app) {
  const auto o = std::make_shared<EvalOptions>();
  CLI::App* command =
      app.add_subcommand("eval", "Perplexity of given tokens, logits, routing, states");
  o->model.add_to(*command);
  CLI::Option_group* tokens = command->add_option_group("tokens", "What to evaluate");
  tokens->add_option("--file", o->text_file, "a text (- is standard input)");
  tokens->add_option("--ids", o->ids, "token ids: 1,2,3")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::NonNegativeNumber);
  tokens->add_option("--ids-file", o->ids_file, "a JSON list of ids, or an object with \"ids\"");
  tokens->require_option(1);
  command->add_flag("--special", o->special, "parse control tokens spelled in the text");
  command->add_option("--logits", o->files.logits, "write float32 [tokens, vocabulary] (.npy)");
  command->add_option("--routing", o->files.routing,
                      "write int32 [tokens, layers, k]: picks, heaviest first (.npy)");
  command->add_option("--weights", o->files.weights, "write float32 [tokens, layers, k] (.npy)");
  command->add_option(
      "--hidden", o->files.hidden,
      "write float32 [layers + 1, tokens, hidden]: embedding, then each layer (.npy)");
  command->add_option("--states", o->states,
                      "a folder for conv_state.L.npy and recurrent_state.L.npy of each layer L");
  command->add_option("--greedy", o->greedy, "add N ids that continue the tokens")
      ->check(CLI::NonNegativeNumber);
  auto* decode = command->add_flag("--decode", o->decode, "feed token by token");
  command->add_option("--chunk", o->chunk, "feed at most N tokens a step")
      ->excludes(decode)
      ->check(CLI::PositiveNumber);
  command->add_flag("--reference", o->reference,
                    "compute with float32 weights, decoded as their format says, and with float "
                    "activations: slow, for comparing");
  command->add_flag("--json", o->json, "no words on stderr beside the JSON on stdout");
  command->footer("Example:\n  hotset eval -m model.gguf --file text.txt --logits logits.npy");
  command->callback([o] { run_eval(*o); });
}

}  // namespace hotset
