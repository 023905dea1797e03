// What the schemes' readers share: finding a module's tensors and checking them, reading windows of
// them, and unpacking bits. Internal to runtime/weights/quantised.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/weights/json.h"
#include "runtime/weights/messages.h"
#include "runtime/weights/quantised/quantised.h"
#include "runtime/weights/safetensors.h"

namespace hotset {

// Which tensor types a tensor may have, as safetensors names them ("I32").
using Dtypes = std::initializer_list<std::string_view>;

class ModuleTensors {
 public:
  ModuleTensors(const SafetensorsFolder& folder, const std::string& module)
      : folder_(folder), module_(module) {}

  const std::string& module() const { return module_; }
  bool has(const std::string& suffix) const {
    return folder_.find_stored(module_ + suffix) != nullptr;
  }
  // Throws Error: it is missing, or of another type or shape. -1: any size there.
  const StoredTensor& need(const std::string& suffix, Dtypes dtypes,
                           std::initializer_list<int64_t> shape) const;
  const StoredTensor& need(const std::string& suffix, Dtypes dtypes) const;
  bool is_dtype(const std::string& suffix, std::string_view dtype) const;

 private:
  const SafetensorsFolder& folder_;
  const std::string module_;
};

[[noreturn]] void refuse_tensor(const TensorInfo& tensor, const std::string& what);

ScaleType scale_type(const StoredTensor& tensor);  // F16, BF16, F32, F8_E4M3

// Bytes [first, first + count) of a tensor.
void read_bytes(const TensorInfo& tensor, int64_t first, std::span<std::byte> out);
// Columns [first, first + columns) of a [rows][row_width] tensor of `element_bytes`, rows one after
// the other.
void read_columns(const TensorInfo& tensor, int64_t rows, int64_t row_width, int64_t element_bytes,
                  int64_t first, int64_t columns, std::span<std::byte> out);

// count scales as floats, finite or an Error that names the tensor; `first` is the element of the
// tensor that raw[0] is.
void decode_scales(const StoredTensor& tensor, const std::byte* raw, int64_t first, int64_t count,
                   float* out);
// Scales [first_row .. ][per_row] of a row-major tensor.
void read_scale_rows(const StoredTensor& tensor, int64_t first_row, int64_t rows, int64_t per_row,
                     float* out, Scratch& scratch);
// The same of a [per_row][all rows] tensor, which keeps a row's scales in a column.
void read_scale_columns(const StoredTensor& tensor, int64_t all_rows, int64_t first_row,
                        int64_t rows, int64_t per_row, float* out, Scratch& scratch);
int64_t element_bytes(const StoredTensor& tensor);

// 4-bit codes, low nibble first (or high): `count` codes from `bytes`, which begin at an even one.
void unpack_nibbles(const std::byte* bytes, int64_t count, bool high_first, uint8_t* out);

// The order of columns by their group, which g_idx gives for each: columns of a group together,
// groups rising. Throws Error if an entry is not a group, or a group has not `group` columns (the
// last one: the rest).
void order_by_group(const TensorInfo& g_idx, std::span<const int32_t> groups_of, int64_t group,
                    uint32_t* order, Scratch& scratch);

int64_t ceil_div(int64_t a, int64_t b);

// A configuration's integer in a range, or an Error.
int64_t integer_in(const JsonObject& config, const std::string& key, int64_t least, int64_t most);

}  // namespace hotset
