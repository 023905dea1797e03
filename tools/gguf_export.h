// A model description as a GGUF file: llama.cpp's keys and tensor names
// (gguf-py/gguf/constants.py), and which rows of the source go where. Moves no weights itself but
// the small vectors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/weights/model_description.h"
#include "tools/gguf_writer.h"

namespace hotset {

// Rows of a source matrix that become rows of a tensor.
struct RowCopy {
  MatrixSource source;
  int64_t first_row = 0, rows = 0;
  size_t tensor = 0;  // the writer's number
  uint64_t offset = 0;
  TensorType type = TensorType::kF32;
};

// Small tensors, ready to be written.
struct VectorCopy {
  size_t tensor = 0;
  Vector values;
};

struct ExportPlan {
  std::vector<RowCopy> matrices;
  std::vector<VectorCopy> vectors;
};

// Adds all keys and tensors. `expert_type` is the routed experts'; other matrices become Q8_0;
// router, gates, norms, convolution and biases F32, as does a matrix whose rows are no whole number
// of blocks. Throws Error if the model cannot be written (a vocabulary without a GGUF name for its
// rule).
ExportPlan plan_export(GgufWriter& writer, const ModelDescription& model, TensorType expert_type);

}  // namespace hotset
