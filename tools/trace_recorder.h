// `--trace F`: what an engine picks goes to a trace file while it runs. A trace never stops a
// generation: what goes wrong with it is said once, and the rest is not recorded.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cache/trace.h"
#include "runtime/engine.h"
#include "runtime/weights/output_file.h"

namespace hotset {

class TraceRecorder : public StepObserver {
 public:
  // Watches every step of the engine, which must outlive this. Throws Error if the file cannot be
  // created. Until the end it is F.part: that is what a killed process leaves, readable up to its
  // last block.
  TraceRecorder(const std::string& path, Engine& engine);
  ~TraceRecorder() override;  // puts the file in place

  void on_hidden(int32_t layer, const float* x, int64_t rows) override;
  void on_routing(int32_t layer, const int32_t* experts, const float* weights,
                  int64_t rows) override;

 private:
  template <class Work>
  void attempt(const Work& work);

  Engine& engine_;
  OutputFile file_;
  uint64_t written_ = 0;
  std::optional<TraceWriter> writer_;
  bool is_whole_ = true;  // nothing went wrong so far
  uint32_t steps_ = 0;
};

}  // namespace hotset
