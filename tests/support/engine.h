// Opens test models and runs texts through them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "tests/support/golden.h"

namespace hotset::test {

inline std::unique_ptr<Engine> open_engine(const std::string& path, EngineOptions options = {},
                                           std::unique_ptr<Ring> ring = nullptr) {
  const Engine::Progress silent = [](int64_t, int64_t, const char*) {};
  auto engine =
      std::make_unique<Engine>(open_model(path), options, silent, nullptr, std::move(ring));
  engine->wait_until_resident(silent);
  return engine;
}

// For what is the engine's and not a model's: it has attention, delta nets and a shared expert.
inline std::string small_model() {
  return data_path("models/qwen3_next-b");
}

// For texts of tests: two threads, and two blocks of keys and values a session.
inline EngineOptions small_options(int32_t sessions = 1) {
  EngineOptions options;
  options.threads = 2;
  options.context = 512;
  options.sessions = sessions;
  return options;
}

// Logits of every position, [T][vocab].
inline std::vector<float> all_logits(Engine& engine, std::span<const int32_t> ids,
                                     int64_t chunk = 0, StepObserver* observer = nullptr) {
  Session session = engine.open_session();
  std::vector<float> logits;
  feed(
      engine, session, ids, chunk,
      [&](std::span<const float> step) { logits.insert(logits.end(), step.begin(), step.end()); },
      observer);
  return logits;
}

// Keeps everything a StepObserver sees, over the steps of one prompt.
struct Recorder : StepObserver {
  std::vector<std::vector<float>> hidden;     // [layers + 1][T * H]
  std::vector<std::vector<int32_t>> experts;  // [layers][T * k]
  std::vector<std::vector<float>> weights;
  int64_t width, k;

  Recorder(const ModelConfig& c)
      : hidden(c.num_hidden_layers + 1),
        experts(c.num_hidden_layers),
        weights(c.num_hidden_layers),
        width(c.hidden_size),
        k(c.num_experts_per_tok) {}
  void on_hidden(int32_t layer, const float* x, int64_t rows) override {
    hidden[layer + 1].insert(hidden[layer + 1].end(), x, x + rows * width);
  }
  void on_routing(int32_t layer, const int32_t* e, const float* w, int64_t rows) override {
    experts[layer].insert(experts[layer].end(), e, e + rows * k);
    weights[layer].insert(weights[layer].end(), w, w + rows * k);
  }
};

}  // namespace hotset::test
