// `hotset trace`: what is in a routing trace, and from and to other programs' files.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "profiler/routing_trace.h"
#include "profiler/simulator.h"
#include "runtime/weights/output_file.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/size.h"

namespace hotset {
namespace {

// Bytes of an output file, one after another.
class Output {
 public:
  explicit Output(const std::string& path) : file_(path) {}
  void write(std::span<const std::byte> bytes) {
    file_.write(written_, bytes);
    written_ += bytes.size();
  }
  void commit() { file_.commit(); }

 private:
  OutputFile file_;
  uint64_t written_ = 0;
};

void warn_of_damage(const RoutingTrace& trace) {
  if (!trace.damage.empty()) fmt::print(stderr, "hotset: {}\n", trace.damage);
}

struct TraceSums {
  int64_t decode_tokens = 0, prompt_tokens = 0;
  double repeats = 0;             // share of a decoded token's picks that the one before had, too
  std::vector<int32_t> distinct;  // [layers]
};

TraceSums sum_up(const RoutingTrace& trace) {
  const TraceHeader& h = trace.header;
  TraceSums sums;
  sums.distinct.resize(h.layers);
  std::vector<std::vector<uint16_t>> before(h.layers);
  std::vector<uint8_t> seen(static_cast<size_t>(h.layers) * h.experts);
  int64_t repeated = 0, compared = 0;
  int32_t first_layer = trace.events.front().layer;
  for (const RoutingTrace::Event& event : trace.events) {
    for (int32_t r = 0; r < event.rows; ++r) {
      for (const uint16_t id : trace.row(event, r)) {
        uint8_t& known = seen[static_cast<size_t>(event.layer) * h.experts + id];
        sums.distinct[event.layer] += std::exchange(known, uint8_t{1}) == 0;
      }
    }
    const bool is_decode = event.phase == TracePhase::kDecode;
    if (event.layer == first_layer) {
      (is_decode ? sums.decode_tokens : sums.prompt_tokens) += event.rows;
    }
    std::vector<uint16_t>& last = before[event.layer];
    const std::span<const uint16_t> row = trace.row(event, event.rows - 1);
    if (is_decode && !last.empty()) {
      compared += h.top_k;
      for (const uint16_t id : row) repeated += std::count(last.begin(), last.end(), id);
    }
    last.assign(row.begin(), row.end());
  }
  sums.repeats =
      compared == 0 ? 0.0 : static_cast<double>(repeated) / static_cast<double>(compared);
  return sums;
}

void print_info(const std::string& path, bool as_json) {
  const RoutingTrace trace = load_trace(path);
  const TraceHeader& h = trace.header;
  const TraceSums sums = sum_up(trace);
  const auto [fewest, most] = std::minmax_element(sums.distinct.begin(), sums.distinct.end());
  if (as_json) {
    const nlohmann::ordered_json out = {{"model", h.model},
                                        {"fingerprint", fmt::format("{:016x}", h.fingerprint)},
                                        {"layers", h.layers},
                                        {"experts", h.experts},
                                        {"top_k", h.top_k},
                                        {"expert_bytes", h.expert_bytes},
                                        {"has_weights", h.has_weights},
                                        {"decode_tokens", sums.decode_tokens},
                                        {"prompt_tokens", sums.prompt_tokens},
                                        {"events", trace.events.size()},
                                        {"repeat_share", sums.repeats},
                                        {"distinct_experts", sums.distinct},
                                        {"damage", trace.damage}};
    fmt::print("{}\n", out.dump());
    return;
  }
  fmt::print("{}: {} layers of {} experts, top-{}{}\n",
             h.model.empty() ? "no model named" : h.model, h.layers, h.experts, h.top_k,
             h.has_weights ? ", with weights" : "");
  if (h.fingerprint != 0) fmt::print("fingerprint {:016x}\n", h.fingerprint);
  if (h.expert_bytes[0] > 0)
    fmt::print("an expert of layer 0 is {}\n", human_bytes(h.expert_bytes[0]));
  fmt::print("{} decoded tokens, {} prompt tokens\n", sums.decode_tokens, sums.prompt_tokens);
  fmt::print("{:.1f} % of a decoded token's picks were picked at the token before\n",
             100 * sums.repeats);
  fmt::print("{} to {} distinct experts a layer\n", *fewest, *most);
  if (!trace.damage.empty()) fmt::print("damaged: {}\n", trace.damage);
}

void write_trace(const RoutingTrace& trace, const std::string& path) {
  Output out(path);
  TraceWriter writer(trace.header, [&](std::span<const std::byte> bytes) { out.write(bytes); });
  std::vector<int32_t> ids;
  for (const RoutingTrace::Event& event : trace.events) {
    const auto begin = trace.ids.begin() + static_cast<int64_t>(event.first);
    ids.assign(begin, begin + static_cast<int64_t>(event.rows) * trace.header.top_k);
    writer.add(event.step, event.layer, event.phase, ids.data(), nullptr, event.rows);
  }
  writer.flush();
  out.commit();
}

void export_csv(const RoutingTrace& trace, Output& out) {
  const auto write = [&](const std::string& text) { out.write(std::as_bytes(std::span(text))); };
  write("step,phase,layer,row,rank,expert,weight\n");
  for (const RoutingTrace::Event& event : trace.events) {
    std::string lines;
    const char* phase = event.phase == TracePhase::kDecode ? "decode" : "prompt";
    for (int64_t i = 0; i < static_cast<int64_t>(event.rows) * trace.header.top_k; ++i) {
      lines += fmt::format("{},{},{},{},{},{},{:.3f}\n", event.step, phase, event.layer,
                           i / trace.header.top_k, i % trace.header.top_k,
                           trace.ids[event.first + i], trace.weights[event.first + i] / 255.0);
    }
    write(lines);
  }
}

// In the form that `import` takes.
void export_int16(const RoutingTrace& trace, Output& out) {
  const std::vector<uint16_t> picks = decoded_picks(trace);
  out.write(std::as_bytes(std::span(picks)));
}

void export_trace(const std::string& path, const std::string& to) {
  const bool is_csv = to.ends_with(".csv");
  if (!is_csv && !to.ends_with(".i16")) {
    throw ConfigError(to + ": expected a name that ends in .csv or .i16");
  }
  const RoutingTrace trace = load_trace(path);
  warn_of_damage(trace);
  Output out(to);
  if (is_csv) {
    export_csv(trace, out);
  } else {
    export_int16(trace, out);
  }
  out.commit();
}

struct ImportOptions {
  std::string path, to, expert_bytes = "0";
  int32_t layers = 0, experts = 0, top_k = 0;
};

void import_trace(const ImportOptions& options) {
  const std::optional<Size> size = Size::parse(options.expert_bytes);
  if (!size || size->is_percent()) {
    throw ConfigError(fmt::format("--expert-bytes: found \"{}\", expected a size such as 1.77MB",
                                  options.expert_bytes));
  }
  RoutingTrace trace =
      load_int16_routing(options.path, options.layers, options.experts, options.top_k);
  std::fill(trace.header.expert_bytes.begin(), trace.header.expert_bytes.end(), size->bytes_of(0));
  write_trace(trace, options.to);
}

void add_import(CLI::App& trace) {
  const auto o = std::make_shared<ImportOptions>();
  CLI::App* command =
      trace.add_subcommand("import", "int16 [tokens][layers][top-k], heaviest first, to a trace");
  command->add_option("file", o->path, "the file of ids")->required();
  const auto number = [&](const char* name, int32_t& value, const char* text) {
    command->add_option(name, value, text)->required()->check(CLI::PositiveNumber);
  };
  number("--layers", o->layers, "layers of the model");
  number("--experts", o->experts, "experts of a layer");
  number("--top-k", o->top_k, "picks of a token in a layer");
  command->add_option("--expert-bytes", o->expert_bytes, "size of an expert, for counts in bytes");
  command->add_option("-o,--output", o->to, "the trace to write")->required();
  command->footer(
      "Example:\n  hotset trace import easy.i16 --layers 48 --experts 512 --top-k 10 -o "
      "easy.trace");
  command->callback([o] { import_trace(*o); });
}

}  // namespace

void add_trace_command(CLI::App& app) {
  CLI::App* trace = app.add_subcommand("trace", "Look into routing traces (run --trace F)");
  trace->require_subcommand(1);
  struct Options {
    std::string path, to;
    bool json = false;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* info = trace->add_subcommand("info", "Shape, tokens and locality of a trace");
  info->add_option("file", o->path, "a trace")->required();
  info->add_flag("--json", o->json, "one JSON object on stdout");
  info->footer("Example:\n  hotset trace info chat.trace");
  info->callback([o] { print_info(o->path, o->json); });
  CLI::App* to = trace->add_subcommand("export", "A trace as .csv, or its decode as .i16");
  to->add_option("file", o->path, "a trace")->required();
  to->add_option("-o,--output", o->to,
                 "OUT.csv (all of it) or OUT.i16 (decoded tokens that have all layers)")
      ->required();
  to->footer("Example:\n  hotset trace export chat.trace -o chat.csv");
  to->callback([o] { export_trace(o->path, o->to); });
  add_import(*trace);
  trace->footer("Example:\n  hotset trace info chat.trace");
}

}  // namespace hotset
