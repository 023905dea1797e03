// Hugging Face checkpoints whose weights are quantised, as their libraries publish them. A scheme
// is one small file of this folder: it reads the scheme's configuration, finds and checks a
// module's tensors, and yields its rows in the neutral form of kernels/coded_rows.h, from which
// packing, decoding, kernels and the report of `hotset inspect` follow. schemes.cc names them all.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "kernels/coded_rows.h"
#include "runtime/weights/gguf.h"

namespace hotset {

class JsonObject;
class SafetensorsFolder;

// Memory that a reader takes raw tensor bytes from; whoever reads provides it, so that loading an
// expert allocates nothing.
class Scratch {
 public:
  Scratch(std::byte* begin, int64_t bytes) : at_(begin), left_(bytes) {}
  template <class T>
  std::span<T> take(int64_t count) {
    return {reinterpret_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T)))),
            static_cast<size_t>(count)};
  }

 private:
  std::byte* take_bytes(int64_t bytes);
  std::byte* at_;
  int64_t left_;
};

// The weight of one module, [n, k]. Immutable and thread-safe.
class QuantisedMatrix {
 public:
  virtual ~QuantisedMatrix() = default;

  const CodedForm& form() const { return form_; }
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  // For people: "gptq, 4 bits, act-order"; the group is the form's block.
  const std::string& scheme() const { return scheme_; }
  // All tensors it is made of; the first has the codes.
  const std::vector<const TensorInfo*>& tensors() const { return tensors_; }
  int64_t bytes() const;  // of all tensors
  // Scratch that read() takes at most for so many rows.
  int64_t scratch_bytes(int64_t rows) const;

  // Fills in rows [first_row, first_row + rows), which begin at `out`. Throws Error naming the
  // tensor if it cannot be read, a scale is not finite, or an index is out of range.
  virtual void read(int64_t first_row, int64_t rows, const CodedRows& out,
                    Scratch& scratch) const = 0;

 protected:
  CodedForm form_;
  int64_t n_ = 0, k_ = 0;
  std::string scheme_;
  std::vector<const TensorInfo*> tensors_;
};

// A checkpoint's quantisation.
class QuantisedScheme {
 public:
  virtual ~QuantisedScheme() = default;
  // The module's weight, [n, k]; null if the module is not quantised (its weight is a float
  // tensor). Checks shapes and types of all its tensors; reads only the smallest. Throws Error
  // naming the tensor, what was found and what was expected.
  virtual std::unique_ptr<QuantisedMatrix> find(const std::string& module, int64_t n,
                                                int64_t k) const = 0;
};

// Of config.json's quantization_config; null if the folder has none. Throws Error naming the scheme
// if it, or a setting of it, is not read. `folder` must outlive what is found.
std::unique_ptr<QuantisedScheme> open_scheme(const nlohmann::json& config, const std::string& file,
                                             const SafetensorsFolder& folder);

// Decodes rows to float32 by the source's formula. Allocates.
void dequantise_rows(const QuantisedMatrix& matrix, int64_t first_row, int64_t rows, float* out);

// Memory for `rows` rows in the neutral form and for reading them, cut from one buffer.
struct CodedBuffer {
  CodedBuffer(const QuantisedMatrix& matrix, int64_t rows, std::byte* memory);
  static int64_t bytes(const QuantisedMatrix& matrix, int64_t rows);
  CodedRows rows;
  Scratch scratch;
};

}  // namespace hotset
