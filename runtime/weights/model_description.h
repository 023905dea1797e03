// The one in-memory description of a model that every source format converges on: what it is, and
// where the bytes of each weight lie. A new source format fills this in and touches nothing else.
// Holds no weights.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/formats/tensor_type.h"
#include "runtime/tokenizer/vocabulary.h"
#include "runtime/weights/gguf.h"

namespace hotset {

class QuantisedMatrix;

enum class Architecture { kQwen3Next, kQwen3Moe };

struct ModelConfig {  // field names as in config.json where it has them
  Architecture architecture = Architecture::kQwen3Moe;
  std::string name;
  int64_t vocab_size = 0, hidden_size = 0, num_hidden_layers = 0, max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  // full attention
  int64_t num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  bool attention_gate = false;  // q_proj holds [query | gate] per head; output * sigmoid(gate)
  int64_t rotary_dim = 0;       // leading dims of a head that rotate, half-split pairs
  double rope_theta = 10000;
  // gated delta net
  int64_t linear_num_key_heads = 0, linear_num_value_heads = 0, linear_key_head_dim = 0,
          linear_value_head_dim = 0;
  int64_t linear_conv_kernel_dim = 0;
  // mixture of experts
  int64_t num_experts = 0, num_experts_per_tok = 0, moe_intermediate_size = 0;
  bool norm_topk_prob = true;
  int64_t shared_expert_intermediate_size = 0;  // 0: no shared expert

  bool operator==(const ModelConfig&) const = default;
  int64_t linear_key_dim() const { return linear_num_key_heads * linear_key_head_dim; }
  int64_t linear_value_dim() const { return linear_num_value_heads * linear_value_head_dim; }
  int64_t conv_channels() const { return 2 * linear_key_dim() + linear_value_dim(); }
};

// Consecutive rows of a tensor in a file, as [rows, row_length] (leading dims flattened).
struct RowRange {
  const TensorInfo* tensor = nullptr;
  int64_t first_row = 0, rows = 0;
};

// A weight matrix [n, k]: its rows in order, gathered from row ranges of one type. `name` is the
// (first) tensor's, for messages. Of a quantised checkpoint's module (quantised/quantised.h) the
// ranges are rows of the module, and what read_rows() gives is decoded: `type` is f32.
struct MatrixSource {
  std::string name;
  TensorType type = TensorType::kF32;
  int64_t n = 0, k = 0;
  std::vector<RowRange> rows;
  std::shared_ptr<const QuantisedMatrix> quantised;
  bool as_float =
      false;  // compute with its float32 values, whatever the file has (see reference())
  int64_t bytes() const;  // in the files
};

// A float vector (norm weight, conv weight, bias ...), read and checked finite when the description
// is made. Already in the form the runtime uses: norm weights are plain factors, `ssm_a` is
// -exp(A_log).
using Vector = std::vector<float>;

struct ExpertSourceTensors {
  MatrixSource gate, up, down;  // [I, H], [I, H], [H, I]
};

struct AttentionTensors {
  MatrixSource q, k, v, o;
  Vector q_norm, k_norm;  // [head_dim]
};

struct DeltaNetTensors {
  MatrixSource qkv;   // [conv_channels, H]: q of all heads | k of all heads | v of all heads
  MatrixSource z;     // [value_dim, H]
  MatrixSource ba;    // [2 * value heads, H]: b of all value heads | a of all value heads
  MatrixSource out;   // [H, value_dim]
  Vector conv;        // [channels, width], oldest input first
  Vector dt_bias, a;  // [value heads]; g = a * softplus(a_t + dt_bias)
  Vector norm;        // [value_head_dim], plain factor
};

struct LayerTensors {
  bool is_delta_net = false;
  Vector mixer_norm, moe_norm;  // [H], plain factors
  AttentionTensors attention;   // if !is_delta_net
  DeltaNetTensors delta_net;    // if is_delta_net
  MatrixSource router;          // [experts, H]
  std::vector<ExpertSourceTensors> experts;
  std::optional<ExpertSourceTensors> shared_expert;
  MatrixSource shared_expert_gate;  // [1, H], if shared_expert
};

struct GenerationDefaults {  // generation_config.json; a GGUF has none: greedy
  bool do_sample = false;
  float temperature = 1.0f, top_p = 1.0f, min_p = 0.0f, repetition_penalty = 1.0f;
  int64_t top_k = 0;
};

struct ModelDescription {
  std::string path;  // as given
  ModelConfig config;
  MatrixSource embedding;  // [vocab, H], stays in source form
  MatrixSource output;     // [vocab, H]; the embedding's where tied
  Vector final_norm;       // [H]
  std::vector<LayerTensors> layers;
  std::optional<Vocabulary> vocabulary;  // nothing: no_vocab, ids only
  std::string chat_template;             // Jinja text, or ""
  std::vector<int32_t> stop_ids;         // ids that end generation, by file and generation_config
  GenerationDefaults generation;

  std::vector<const File*> files;     // all parts
  uint64_t config_checksum = 0;       // of config.json, where that is not part of `files`
  std::shared_ptr<const void> owner;  // keeps the files and their TensorInfos
  uint64_t file_bytes() const;        // of all parts
};

// The same model, to be computed with float32 weights and unquantised activations: what to compare
// with.
ModelDescription reference(ModelDescription model);

// Opens a .gguf file (any part) or a Hugging Face folder, checks structure and all small tensors,
// and describes it. Throws Error naming file, key or tensor, found and expected.
ModelDescription open_model(const std::string& path);

// Every matrix of the model: each one once, but for a tied output.
void for_each_matrix(ModelDescription& model, const std::function<void(MatrixSource&)>& body);
void for_each_matrix(const ModelDescription& model,
                     const std::function<void(const MatrixSource&)>& body);

// Calls body(RowRange) for the pieces of rows [first_row, first_row + rows), in order. A template,
// since experts are read while tokens wait: a std::function would allocate.
template <class Body>
void for_each_range(const MatrixSource& matrix, int64_t first_row, int64_t rows, Body body) {
  HOTSET_CHECK(first_row >= 0 && rows >= 0 && first_row + rows <= matrix.n, "rows of the matrix");
  int64_t range_first = 0;  // the matrix's row that the range starts with
  for (const RowRange& range : matrix.rows) {
    if (rows == 0) return;
    const int64_t skip = first_row - range_first;
    range_first += range.rows;
    if (skip >= range.rows) continue;
    const int64_t now = std::min(rows, range.rows - skip);
    body(RowRange{range.tensor, range.first_row + skip, now});
    first_row += now;
    rows -= now;
  }
}

// Reads row range bytes in the file's form: `rows` rows from `first_row` of the matrix (over its
// ranges) to `out`.
void read_rows(const MatrixSource& matrix, int64_t first_row, int64_t rows,
               std::span<std::byte> out);
// A hint that these rows will be read soon.
void expect_rows(const MatrixSource& matrix, int64_t first_row, int64_t rows);

}  // namespace hotset
