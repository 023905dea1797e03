#include "tools/trace_recorder.h"

#include <fmt/format.h>

#include "kernels/check.h"
#include "runtime/model/sidecar.h"
#include "runtime/weights/keep_model.h"

namespace hotset {
namespace {

TraceHeader header_of(const Engine& engine) {
  const ModelConfig& c = engine.config();
  TraceHeader header;
  header.fingerprint = fingerprint_of(engine.description());
  header.layers = static_cast<int32_t>(c.num_hidden_layers);
  header.experts = static_cast<int32_t>(c.num_experts);
  header.top_k = static_cast<int32_t>(c.num_experts_per_tok);
  header.has_weights = true;
  header.expert_bytes.resize(header.layers);
  for (const SlotPlan::Class& sizes : engine.memory_plan().experts.classes) {
    for (const int32_t layer : sizes.layers) header.expert_bytes[layer] = sizes.slot_bytes;
  }
  header.model = c.name.substr(0, 256);
  return header;
}

const std::string& checked(const std::string& path, const Engine& engine) {
  check_keeps_model(engine.description(), path);
  return path;
}

}  // namespace

TraceRecorder::TraceRecorder(const std::string& path, Engine& engine)
    : engine_(engine), file_(checked(path, engine)) {
  writer_.emplace(header_of(engine), [this](std::span<const std::byte> bytes) {
    file_.write(written_, bytes);
    written_ += bytes.size();
  });
  engine_.watch(this);
}

TraceRecorder::~TraceRecorder() {
  engine_.watch(nullptr);
  attempt([&] { writer_->flush(); });
  // What came before the trouble is still worth having.
  is_whole_ = true;
  attempt([&] { file_.commit(); });
}

template <class Work>
void TraceRecorder::attempt(const Work& work) {
  if (!is_whole_) return;
  try {
    work();
  } catch (const Error& error) {
    is_whole_ = false;
    fmt::print(stderr, "hotset: {}; the trace ends here, the run goes on\n", error.what());
  }
}

void TraceRecorder::on_hidden(int32_t layer, const float*, int64_t) {
  if (layer < 0) ++steps_;
}

void TraceRecorder::on_routing(int32_t layer, const int32_t* experts, const float* weights,
                               int64_t rows) {
  const TracePhase phase = rows > 1 ? TracePhase::kPrompt : TracePhase::kDecode;
  attempt([&] { writer_->add(steps_ - 1, layer, phase, experts, weights, rows); });
}

}  // namespace hotset
