// `hotset run`: answers one prompt, or chats on a terminal.
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <span>

#include "profiler/timeline.h"
#include "runtime/generate.h"
#include "runtime/tokenizer/chat_template.h"
#include "runtime/weights/output_file.h"
#include "tools/card_choice.h"
#include "tools/chat.h"
#include "tools/commands.h"
#include "tools/interrupt.h"
#include "tools/model_options.h"

namespace hotset {
namespace {

struct RunOptions {
  ModelOptions model;
  std::string prompt, file, timeline;
  bool has_prompt = false, raw = false, json = false, quiet = false, profile = false;
  std::optional<int64_t> max_tokens;
  std::optional<std::string> system, chat_template;
  std::optional<double> temperature, top_p, min_p, repeat_penalty;
  std::optional<int64_t> top_k, seed;
  std::vector<std::string> stops;
};

Config config_of(const RunOptions& options) {
  Config config = options.model.config();
  const auto override_with = [](auto& setting, const auto& flag) {
    if (flag) setting = *flag;
  };
  override_with(config.sampler.temperature, options.temperature);
  override_with(config.sampler.top_k, options.top_k);
  override_with(config.sampler.top_p, options.top_p);
  override_with(config.sampler.min_p, options.min_p);
  override_with(config.sampler.repeat_penalty, options.repeat_penalty);
  override_with(config.sampler.seed, options.seed);
  override_with(config.chat.format, options.chat_template);
  override_with(config.chat.system, options.system);
  check_config(config);
  return config;
}

SamplerOptions sampler_options(const SamplerConfig& asked, const GenerationDefaults& model) {
  SamplerOptions options;
  options.temperature = asked.temperature.value_or(model.do_sample ? model.temperature : 0.0);
  options.top_k = asked.top_k.value_or(model.top_k);
  options.top_p = asked.top_p.value_or(model.top_p);
  options.min_p = asked.min_p.value_or(model.min_p);
  options.repetition_penalty = asked.repeat_penalty.value_or(model.repetition_penalty);
  options.seed = asked.seed ? static_cast<uint64_t>(*asked.seed) : std::random_device{}();
  return options;
}

std::vector<bool> samplable_ids(const Tokenizer& tokenizer, int64_t vocab_size) {
  std::vector<bool> allowed(static_cast<size_t>(vocab_size));
  for (int32_t id = 0; id < vocab_size; ++id) allowed[id] = tokenizer.has_token(id);
  return allowed;
}

std::optional<ChatTemplate> template_of(const Config& config, const RunOptions& options,
                                        const ModelDescription& description) {
  if (options.raw) return {};
  if (config.chat.format) return ChatTemplate::named(*config.chat.format);
  return ChatTemplate::recognise(description.chat_template);
}

std::vector<int32_t> stop_ids_of(const ModelDescription& description, const Tokenizer& tokenizer,
                                 const std::optional<ChatTemplate>& format) {
  std::vector<int32_t> ids = description.stop_ids;
  if (!format) return ids;
  for (const std::string& text : format->stop_texts()) {
    if (const int32_t id = tokenizer.find_added(text); id >= 0) ids.push_back(id);
  }
  return ids;
}

std::vector<int32_t> prompt_ids(const Tokenizer& tokenizer, const Config& config,
                                const std::optional<ChatTemplate>& format,
                                const std::string& prompt) {
  if (!format) return encode_plain(tokenizer, prompt, SpecialTokens::kParse);
  std::vector<ChatMessage> messages;
  if (config.chat.system) messages.push_back({"system", *config.chat.system});
  messages.push_back({"user", prompt});
  return format->encode(tokenizer, messages, 0);
}

void print_json(const Generation& result, const LoadedModel& model) {
  const CacheStats& cache = model.engine->cache_stats();
  const nlohmann::ordered_json out = {{"text", result.text},
                                      {"device", model.device_now()},
                                      {"card", card_json(*model.engine)},
                                      {"ids", result.ids},
                                      {"prompt_tokens", result.prompt_tokens},
                                      {"generated_tokens", result.ids.size()},
                                      {"prefill_tps", result.prefill_tps()},
                                      {"decode_tps", result.decode_tps()},
                                      {"ttft_ms", result.ttft_ms},
                                      {"load_ms", model.load_ms},
                                      {"expert_hits", cache.hits},
                                      {"expert_misses", cache.misses},
                                      {"hit_rate", cache.hit_rate()},
                                      {"bytes_read", cache.bytes_read},
                                      {"finish_reason", finish_reason_name(result.finish)}};
  fmt::print("{}\n", out.dump());
}

void answer_once(LoadedModel& model, const Config& config, const RunOptions& options,
                 const std::optional<ChatTemplate>& format, const GenerateOptions& generate_options,
                 Sampler& sampler, const std::string& prompt) {
  const std::vector<int32_t> ids = prompt_ids(*model.tokenizer, config, format, prompt);
  if (ids.empty()) throw ConfigError("the prompt is empty, expected some text (-p, --file, stdin)");
  Session session = model.engine->open_session();
  GenerateCallbacks callbacks;
  callbacks.cancelled = interrupted;
  if (!options.json) callbacks.on_text = write_text;
  const Generation result =
      generate(*model.engine, session, *model.tokenizer, sampler, ids, generate_options, callbacks);
  if (options.json) {
    print_json(result, model);
  } else {
    write_text("\n");
    if (!options.quiet) {
      fmt::print(stderr, "{}\n", describe_generation(result, *model.engine, model.load_ms));
    }
  }
  if (result.finish == FinishReason::kContext && !options.quiet) {
    fmt::print(stderr,
               "hotset: the answer ends here because the context of {} is full; --ctx raises it\n",
               model.engine->context());
  }
  throw_if_interrupted();
}

void write_timeline(Timeline& timeline, const std::string& path) {
  const std::string text = timeline.finish();
  if (timeline.lost() > 0) {
    fmt::print(stderr, "hotset: {} lacks {} records that were overwritten; profiler.ring\n", path,
               timeline.lost());
  }
  OutputFile file(path);
  file.write(0, std::as_bytes(std::span(text)));
  file.commit();
}

void run_run(const RunOptions& options) {
  const Config config = config_of(options);
  const bool is_chat = !options.has_prompt && options.file.empty() && isatty(STDIN_FILENO) == 1;
  if (is_chat && (options.json || options.raw)) {
    throw ConfigError("--json and --raw need a prompt: -p, --file or standard input");
  }
  if (!options.timeline.empty() && config.profiler.ring == 0) {
    throw ConfigError("--timeline needs records: profiler.ring is 0");
  }
  std::string prompt = options.prompt;
  if (!options.has_prompt && !is_chat) {
    prompt = read_text(options.file.empty() ? "-" : options.file);
  }

  std::optional<ChatTemplate> format;
  LoadedModel model = load_model(
      options.model.model, config, [&] { return config_of(options); },
      [&](const ModelDescription& opened, EngineOptions&) {
        if (!opened.vocabulary) {
          throw Error(
              opened.path +
              ": has no vocabulary (tokenizer.ggml.model is no_vocab), so text cannot be run; "
              "eval --ids and bench work on token ids");
        }
        format = template_of(config, options, opened);
      });
  if (options.profile && model.card == nullptr) {
    throw ConfigError("--profile needs a card (--device cuda), but device is cpu");
  }
  const ModelDescription& description = model.engine->description();
  const bool talks = !options.json && !options.quiet;
  if (talks) {
    fmt::print(stderr, "{}\n", describe_plan(model.engine->memory_plan(), model.budget));
    if (!model.device_notice.empty()) fmt::print(stderr, "{}\n", model.device_notice);
  }

  const std::unique_ptr<TraceRecorder> recorder = options.model.record(*model.engine);
  Sampler sampler(sampler_options(config.sampler, description.generation),
                  samplable_ids(*model.tokenizer, description.config.vocab_size));
  if (talks && sampler.options().temperature > 0) {
    fmt::print(stderr, "seed {}\n", sampler.options().seed);
  }
  GenerateOptions generate_options;
  generate_options.max_tokens = options.max_tokens.value_or(INT64_MAX);
  generate_options.chunk = config.prompt.chunk;
  generate_options.stop_ids = stop_ids_of(description, *model.tokenizer, format);
  generate_options.stop_strings = options.stops;
  std::optional<Timeline> timeline;
  if (!options.timeline.empty()) timeline.emplace(model.ring_path);
  if (options.profile) model.card->set_profiling(true);
  if (is_chat) {
    Chat(model, *format, config.chat.system, generate_options, sampler).run();
  } else {
    answer_once(model, config, options, format, generate_options, sampler, prompt);
  }
  if (options.profile && model.engine->card()) model.card->set_profiling(false);
  if (timeline) write_timeline(*timeline, options.timeline);
}

}  // namespace

void add_run_command(CLI::App& app) {
  const auto o = std::make_shared<RunOptions>();
  CLI::App* command =
      app.add_subcommand("run", "Answer a prompt; without one on a terminal: chat with history");
  o->model.add_to(*command);
  auto* prompt = command->add_option("-p,--prompt", o->prompt, "the prompt");
  command->add_option("--file", o->file, "a file that holds the prompt (- is standard input)")
      ->excludes(prompt);
  command->add_option("-n,--max-tokens", o->max_tokens, "generate at most N tokens")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--system", o->system, "the system message");
  auto* raw = command->add_flag("--raw", o->raw,
                                "no chat template: the text as it is, control tokens in it parsed");
  command->add_option("--chat-template", o->chat_template, "a template that is built in: chatml")
      ->excludes(raw);
  command->add_option("--stop", o->stops, "end the answer before this text; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--temp", o->temperature, "temperature; 0 is greedy");
  command->add_option("--top-k", o->top_k, "sample from the K most probable tokens; 0: all");
  command->add_option("--top-p", o->top_p, "... from the most probable ones that sum up to P");
  command->add_option("--min-p", o->min_p,
                      "... from those at least P times as probable as the best");
  command->add_option("--repeat-penalty", o->repeat_penalty,
                      "make tokens that have occurred less probable; 1: off");
  command->add_option("--seed", o->seed, "the same seed gives the same text");
  command->add_option("--timeline", o->timeline,
                      "write what happened when, in Chrome's trace format (opens in Perfetto)");
  command->add_flag("--profile", o->profile,
                    "let Nsight Systems capture the answer and nothing else (docs/nsight.md)");
  command->add_flag("--json", o->json, "one JSON object on stdout, nothing else");
  command->add_flag("-q,--quiet", o->quiet, "only the answer");
  command->footer("Example:\n  hotset run -m model.gguf -p 'What is 2+2?' -n 64 --ram 50%");
  command->callback([o, prompt] {
    o->has_prompt = prompt->count() > 0;
    run_run(*o);
  });
}

}  // namespace hotset
