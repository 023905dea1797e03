// Where each weight of a model lies, for both containers: shapes, row orders and the small vectors
// (see describe.h).
#include <cmath>
#include <initializer_list>
#include <optional>

#include "kernels/check.h"
#include "runtime/weights/describe.h"
#include "runtime/weights/messages.h"
#include "runtime/weights/quantised/quantised.h"

namespace hotset {
namespace {

[[noreturn]] void fail(const TensorInfo& tensor, const std::string& what) {
  throw Error(tensor.file->path() + ": tensor " + tensor.name + ": " + what);
}

// Leading dimensions of 1 do not count: containers write them or leave them out.
bool same_shape(std::span<const int64_t> a, std::span<const int64_t> b) {
  while (a.size() > 1 && a.front() == 1) a = a.subspan(1);
  while (b.size() > 1 && b.front() == 1) b = b.subspan(1);
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

void check_shape(const TensorInfo& tensor, std::initializer_list<int64_t> expected) {
  const std::span<const int64_t> want(expected.begin(), expected.size());
  if (!same_shape(tensor.dims, want)) {
    fail(tensor, "shape is " + shape_text(tensor.dims) + ", expected " + shape_text(want));
  }
}

MatrixSource rows_of(const TensorInfo& tensor, int64_t first_row, int64_t n) {
  return {tensor.name, tensor.type, n, tensor.row_length(), {{&tensor, first_row, n}},
          nullptr,     false};
}

MatrixSource whole_matrix(const TensorInfo& tensor, int64_t n, int64_t k) {
  check_shape(tensor, {n, k});
  return rows_of(tensor, 0, n);
}

// The tensor's elements in its order; finite, or an Error.
Vector read_vector(const TensorInfo& tensor) {
  std::vector<std::byte> bytes(tensor.bytes);
  tensor.file->read(tensor.offset, bytes);
  Vector values(static_cast<size_t>(tensor.elements()));
  dequantise_row(tensor.type, bytes.data(), values.data(), tensor.elements());
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) fail(tensor, "element " + std::to_string(i) + " is not finite");
  }
  return values;
}

Vector read_vector(const TensorInfo& tensor, int64_t size) {
  check_shape(tensor, {size});
  return read_vector(tensor);
}

class Describer {
 public:
  Describer(const ModelConfig& config, const TensorSource& source)
      : config_(config), source_(source) {}

  Vector norm(const std::string& name, int64_t size) const {
    Vector factors = read_vector(source_.need(name), size);
    for (float& factor : factors) factor += source_.norm_offset();
    return factors;
  }

  MatrixSource matrix(const std::string& name, int64_t n, int64_t k) const {
    std::optional<MatrixSource> found = find_matrix(name, n, k);
    return found ? std::move(*found) : whole_matrix(source_.need(name), n, k);
  }

  // Nothing if there is no such tensor; of another shape or type is an Error.
  std::optional<MatrixSource> find_matrix(const std::string& name, int64_t n, int64_t k) const {
    if (auto quantised = source_.quantised(name, n, k)) {
      const TensorInfo* tensor = quantised->tensors().front();
      return MatrixSource{tensor->name,     TensorType::kF32,     n,    k,
                          {{tensor, 0, n}}, std::move(quantised), false};
    }
    const TensorInfo* tensor = source_.find(name);
    if (tensor == nullptr) return std::nullopt;
    return whole_matrix(*tensor, n, k);
  }

  LayerTensors layer(const LayerNames& names, bool is_delta_net) const {
    LayerTensors out;
    const int64_t hidden = config_.hidden_size;
    out.is_delta_net = is_delta_net;
    out.mixer_norm = norm(names.mixer_norm, hidden);
    out.moe_norm = norm(names.moe_norm, hidden);
    if (is_delta_net) {
      out.delta_net = delta_net(names);
    } else {
      out.attention = attention(names);
    }
    out.router = matrix(names.router, config_.num_experts, hidden);
    out.experts = experts(names);
    if (const int64_t inner = config_.shared_expert_intermediate_size; inner > 0) {
      out.shared_expert = ExpertSourceTensors{matrix(names.shared_gate, inner, hidden),
                                              matrix(names.shared_up, inner, hidden),
                                              matrix(names.shared_down, hidden, inner)};
      out.shared_expert_gate = matrix(names.shared_expert_gate, 1, hidden);
    }
    return out;
  }

 private:
  AttentionTensors attention(const LayerNames& names) const {
    const int64_t hidden = config_.hidden_size, head = config_.head_dim;
    const int64_t q_rows = config_.num_attention_heads * head;
    const int64_t kv_rows = config_.num_key_value_heads * head;
    AttentionTensors out;
    out.q = matrix(names.q, config_.attention_gate ? 2 * q_rows : q_rows, hidden);
    out.k = matrix(names.k, kv_rows, hidden);
    out.v = matrix(names.v, kv_rows, hidden);
    out.o = matrix(names.o, hidden, q_rows);
    out.q_norm = norm(names.q_norm, head);
    out.k_norm = norm(names.k_norm, head);
    return out;
  }

  DeltaNetTensors delta_net(const LayerNames& names) const {
    const int64_t hidden = config_.hidden_size, heads = config_.linear_num_value_heads;
    DeltaNetTensors out;
    const int64_t qkvz_rows = config_.conv_channels() + config_.linear_value_dim();
    if (const auto qkvz = find_matrix(names.qkvz, qkvz_rows, hidden)) {
      split_qkvz(*qkvz, out);
    } else if (names.qkv.empty()) {
      source_.need(names.qkvz);  // reports what is wrong with it
    } else {
      out.qkv = matrix(names.qkv, config_.conv_channels(), hidden);
      out.z = matrix(names.z, config_.linear_value_dim(), hidden);
    }
    split_ba(matrix(names.ba, 2 * heads, hidden), out);
    out.out = matrix(names.delta_out, hidden, config_.linear_value_dim());
    out.conv = conv(source_.need(names.conv));
    out.dt_bias = read_vector(source_.need(names.dt_bias), heads);
    out.a = decay(source_.need(names.a));
    out.norm = read_vector(source_.need(names.delta_norm), config_.linear_value_head_dim);
    return out;
  }

  // Rows grouped by key head, each group q | k | v | z, become q, k, v of all heads, and z.
  void split_qkvz(const MatrixSource& qkvz, DeltaNetTensors& out) const {
    const int64_t groups = config_.linear_num_key_heads;
    const int64_t key = config_.linear_key_head_dim;
    const int64_t value = config_.linear_value_dim() / groups;
    const int64_t group = 2 * key + 2 * value;
    out.qkv = of_no_rows(qkvz);
    out.z = of_no_rows(qkvz);
    const auto gather = [&](MatrixSource& to, int64_t at, int64_t rows) {
      for (int64_t g = 0; g < groups; ++g) append_rows(qkvz, g * group + at, rows, to);
    };
    gather(out.qkv, 0, key);
    gather(out.qkv, key, key);
    gather(out.qkv, 2 * key, value);
    gather(out.z, 2 * key + value, value);
  }

  // Rows grouped by key head, each group b | a of its value heads, become b and a of all heads.
  void split_ba(const MatrixSource& ba, DeltaNetTensors& out) const {
    const int64_t heads = config_.linear_num_value_heads;
    const int64_t groups = config_.linear_num_key_heads, each = heads / groups;
    out.ba = of_no_rows(ba);
    for (const int64_t at : {int64_t{0}, each}) {
      for (int64_t g = 0; g < groups; ++g) append_rows(ba, g * 2 * each + at, each, out.ba);
    }
  }

  static MatrixSource of_no_rows(const MatrixSource& whole) {
    MatrixSource none = whole;
    none.n = 0;
    none.rows.clear();
    return none;
  }
  static void append_rows(const MatrixSource& whole, int64_t first, int64_t rows,
                          MatrixSource& to) {
    to.rows.push_back({whole.rows.front().tensor, first, rows});
    to.n += rows;
  }

  Vector conv(const TensorInfo& tensor) const {
    const int64_t channels = config_.conv_channels(), width = config_.linear_conv_kernel_dim;
    if (tensor.dims.size() == 3) {
      check_shape(tensor, {channels, 1, width});
    } else {
      check_shape(tensor, {channels, width});
    }
    return read_vector(tensor);
  }

  Vector decay(const TensorInfo& tensor) const {
    Vector a = read_vector(tensor, config_.linear_num_value_heads);
    if (!source_.stores_a_log()) return a;
    for (float& value : a) {
      value = static_cast<float>(-std::exp(static_cast<double>(value)));
      if (!std::isfinite(value)) fail(tensor, "exp of a value is not finite");
    }
    return a;
  }

  const TensorInfo* find_any(const std::vector<std::string>& names) const {
    for (const std::string& name : names) {
      if (const TensorInfo* tensor = source_.find(name)) return tensor;
    }
    return nullptr;
  }

  const TensorInfo& need_any(const std::vector<std::string>& names) const {
    const TensorInfo* tensor = find_any(names);
    return tensor != nullptr ? *tensor : source_.need(names.front());
  }

  std::vector<ExpertSourceTensors> experts(const LayerNames& names) const {
    const int64_t inner = config_.moe_intermediate_size, hidden = config_.hidden_size;
    const int64_t count = config_.num_experts;
    std::vector<ExpertSourceTensors> out;
    if (const TensorInfo* gate_up = find_any(names.gate_up_experts)) {
      const TensorInfo& down = need_any(names.down_experts);
      check_shape(*gate_up, {count, 2 * inner, hidden});
      check_shape(down, {count, hidden, inner});
      for (int64_t e = 0; e < count; ++e) {
        out.push_back({rows_of(*gate_up, 2 * e * inner, inner),
                       rows_of(*gate_up, (2 * e + 1) * inner, inner),
                       rows_of(down, e * hidden, hidden)});
      }
    } else if (!names.gate_experts.empty()) {
      const TensorInfo& gate = source_.need(names.gate_experts);
      const TensorInfo& up = source_.need(names.up_experts);
      const TensorInfo& down = need_any(names.down_experts);
      check_shape(gate, {count, inner, hidden});
      check_shape(up, {count, inner, hidden});
      check_shape(down, {count, hidden, inner});
      for (int64_t e = 0; e < count; ++e) {
        out.push_back({rows_of(gate, e * inner, inner), rows_of(up, e * inner, inner),
                       rows_of(down, e * hidden, hidden)});
      }
    } else {
      for (int64_t e = 0; e < count; ++e) {
        const std::string prefix = names.expert_prefix + std::to_string(e) + ".";
        out.push_back({matrix(prefix + "gate_proj.weight", inner, hidden),
                       matrix(prefix + "up_proj.weight", inner, hidden),
                       matrix(prefix + "down_proj.weight", hidden, inner)});
      }
      make_alike(out);
    }
    return out;
  }

  // A layer's experts share one packed layout, so that any of them fits into any slot. Where a
  // quantised checkpoint kept some of them in floats, all are computed in float32.
  static void make_alike(std::vector<ExpertSourceTensors>& experts) {
    for (MatrixSource ExpertSourceTensors::*part :
         {&ExpertSourceTensors::gate, &ExpertSourceTensors::up, &ExpertSourceTensors::down}) {
      const MatrixSource& first = experts.front().*part;
      bool is_mixed = false, is_quantised = false;
      for (const ExpertSourceTensors& expert : experts) {
        is_mixed = is_mixed || !are_alike(first, expert.*part);
        is_quantised = is_quantised || (expert.*part).quantised != nullptr;
      }
      if (!is_mixed) continue;
      for (ExpertSourceTensors& expert : experts) {
        MatrixSource& m = expert.*part;
        if (!is_quantised && !are_alike(first, m)) refuse_other_type(m, first);
        m.as_float = true;
      }
    }
  }

  static bool are_alike(const MatrixSource& a, const MatrixSource& b) {
    if (a.quantised == nullptr || b.quantised == nullptr) {
      return a.quantised == b.quantised && a.type == b.type;
    }
    return a.quantised->form() == b.quantised->form();
  }

  [[noreturn]] static void refuse_other_type(const MatrixSource& m, const MatrixSource& first) {
    fail(*m.rows.front().tensor, "its type is " + std::string(info(m.type).name) + ", but " +
                                     first.name + " is " + std::string(info(first.type).name) +
                                     "; the experts of a layer must have the same types");
  }

  const ModelConfig& config_;
  const TensorSource& source_;
};

}  // namespace

void check_config(const ModelConfig& config, const std::string& file, const ConfigKeys& keys) {
  const auto fail_config = [&](const std::string& key, const std::string& what) {
    throw Error(file + ": " + key + ": " + what);
  };
  const auto check_divides = [&](const std::string& key, int64_t value, const std::string& by_key,
                                 int64_t by) {
    if (by == 0 || value % by == 0) return;
    fail_config(key, std::to_string(value) + " is not a multiple of " + by_key + " (" +
                         std::to_string(by) + ")");
  };
  check_divides(keys.num_attention_heads, config.num_attention_heads, keys.num_key_value_heads,
                config.num_key_value_heads);
  check_divides(keys.linear_num_value_heads, config.linear_num_value_heads,
                keys.linear_num_key_heads, config.linear_num_key_heads);
  if (config.num_experts_per_tok > config.num_experts) {
    fail_config(keys.num_experts_per_tok, "found " + std::to_string(config.num_experts_per_tok) +
                                              ", expected at most " + keys.num_experts + " (" +
                                              std::to_string(config.num_experts) + ")");
  }
  if (config.rotary_dim < 2 || config.rotary_dim % 2 != 0 || config.rotary_dim > config.head_dim) {
    fail_config(keys.rotary_dim, "gives " + std::to_string(config.rotary_dim) +
                                     " rotating dimensions, expected an even number from 2 to " +
                                     keys.head_dim + " (" + std::to_string(config.head_dim) + ")");
  }
  for (const auto& [key, value] : {std::pair{keys.rms_norm_eps, config.rms_norm_eps},
                                   std::pair{keys.rope_theta, config.rope_theta}}) {
    if (!std::isfinite(value) || value <= 0) {
      fail_config(key, "found " + std::to_string(value) + ", expected a finite positive number");
    }
  }
}

void describe_tensors(ModelDescription& model, const TensorSource& source,
                      const std::vector<bool>& is_delta_net) {
  const ModelConfig& config = model.config;
  const Describer describer(config, source);
  model.embedding =
      describer.matrix(source.embedding_name(), config.vocab_size, config.hidden_size);
  model.output =
      config.tie_word_embeddings
          ? model.embedding
          : describer.matrix(source.output_name(), config.vocab_size, config.hidden_size);
  model.final_norm = describer.norm(source.final_norm_name(), config.hidden_size);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    model.layers.push_back(describer.layer(source.layer_names(i), is_delta_net[i]));
  }
}

}  // namespace hotset
