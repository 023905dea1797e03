#include "runtime/weights/quantised/module_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"

namespace hotset {

namespace {

std::string one_of(Dtypes dtypes) {
  std::string text;
  for (const std::string_view dtype : dtypes) {
    text += (text.empty() ? "" : " or ") + std::string(dtype);
  }
  return text;
}

}  // namespace

void refuse_tensor(const TensorInfo& tensor, const std::string& what) {
  throw Error(tensor.file->path() + ": tensor " + tensor.name + ": " + what);
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

const StoredTensor& ModuleTensors::need(const std::string& suffix, Dtypes dtypes) const {
  const StoredTensor* tensor = folder_.find_stored(module_ + suffix);
  if (tensor == nullptr) {
    throw Error(folder_.folder() + ": tensor " + module_ + suffix +
                " is missing from the safetensors files, expected it beside the module's others");
  }
  if (std::find(dtypes.begin(), dtypes.end(), tensor->dtype) == dtypes.end()) {
    refuse_tensor(tensor->info,
                  "its dtype is " + std::string(tensor->dtype) + ", expected " + one_of(dtypes));
  }
  return *tensor;
}

const StoredTensor& ModuleTensors::need(const std::string& suffix, Dtypes dtypes,
                                        std::initializer_list<int64_t> shape) const {
  const StoredTensor& tensor = need(suffix, dtypes);
  const auto fits = [](int64_t found, int64_t want) { return want < 0 || found == want; };
  if (!std::equal(tensor.info.dims.begin(), tensor.info.dims.end(), shape.begin(), shape.end(),
                  fits)) {
    refuse_tensor(tensor.info,
                  "its shape is " + shape_text(tensor.info.dims) + ", expected " +
                      shape_text(std::span<const int64_t>(shape.begin(), shape.size())));
  }
  return tensor;
}

bool ModuleTensors::is_dtype(const std::string& suffix, std::string_view dtype) const {
  const StoredTensor* tensor = folder_.find_stored(module_ + suffix);
  return tensor != nullptr && tensor->dtype == dtype;
}

ScaleType scale_type(const StoredTensor& tensor) {
  if (tensor.dtype == "F16") return ScaleType::kF16;
  if (tensor.dtype == "BF16") return ScaleType::kBF16;
  if (tensor.dtype == "F8_E4M3") return ScaleType::kE4M3;
  return ScaleType::kF32;
}

int64_t element_bytes(const StoredTensor& tensor) {
  return static_cast<int64_t>(tensor.info.bytes) / tensor.info.elements();
}

void read_bytes(const TensorInfo& tensor, int64_t first, std::span<std::byte> out) {
  HOTSET_CHECK(first >= 0 && static_cast<uint64_t>(first) + out.size() <= tensor.bytes,
               "bytes of the tensor");
  tensor.file->read(tensor.offset + static_cast<uint64_t>(first), out);
}

void read_columns(const TensorInfo& tensor, int64_t rows, int64_t row_width, int64_t element_bytes,
                  int64_t first, int64_t columns, std::span<std::byte> out) {
  const int64_t bytes = columns * element_bytes;
  if (columns == row_width) return read_bytes(tensor, 0, out.first(rows * bytes));
  for (int64_t r = 0; r < rows; ++r) {
    read_bytes(tensor, (r * row_width + first) * element_bytes, out.subspan(r * bytes, bytes));
  }
}

void decode_scales(const StoredTensor& tensor, const std::byte* raw, int64_t first, int64_t count,
                   float* out) {
  switch (scale_type(tensor)) {
    case ScaleType::kF16:
      dequantise_row(TensorType::kF16, raw, out, count);
      break;
    case ScaleType::kBF16:
      dequantise_row(TensorType::kBF16, raw, out, count);
      break;
    case ScaleType::kE4M3:
      for (int64_t i = 0; i < count; ++i) {
        out[i] = e4m3_to_float(std::to_integer<uint8_t>(raw[i]));
      }
      break;
    default:
      std::memcpy(out, raw, static_cast<size_t>(count) * sizeof(float));
  }
  const float* bad = std::find_if_not(out, out + count, [](float v) { return std::isfinite(v); });
  if (bad != out + count) {
    refuse_tensor(tensor.info, "element " + std::to_string(first + (bad - out)) +
                                   " is not finite, expected finite scales; the file is damaged: "
                                   "fetch it again");
  }
}

void read_scale_rows(const StoredTensor& tensor, int64_t first_row, int64_t rows, int64_t per_row,
                     float* out, Scratch& scratch) {
  const int64_t each = element_bytes(tensor);
  const auto raw = scratch.take<std::byte>(rows * per_row * each);
  read_bytes(tensor.info, first_row * per_row * each, raw);
  decode_scales(tensor, raw.data(), first_row * per_row, rows * per_row, out);
}

void read_scale_columns(const StoredTensor& tensor, int64_t all_rows, int64_t first_row,
                        int64_t rows, int64_t per_row, float* out, Scratch& scratch) {
  const int64_t each = element_bytes(tensor);
  const auto raw = scratch.take<std::byte>(rows * per_row * each);
  read_columns(tensor.info, per_row, all_rows, each, first_row, rows, raw);
  const auto scales = scratch.take<float>(rows);
  for (int64_t g = 0; g < per_row; ++g) {
    decode_scales(tensor, raw.data() + g * rows * each, g * all_rows + first_row, rows,
                  scales.data());
    for (int64_t r = 0; r < rows; ++r) out[r * per_row + g] = scales[r];
  }
}

void unpack_nibbles(const std::byte* bytes, int64_t count, bool high_first, uint8_t* out) {
  const auto* in = reinterpret_cast<const uint8_t*>(bytes);
  const int first = high_first ? 4 : 0, second = 4 - first;
  for (int64_t i = 0; i < count / 2; ++i) {
    out[2 * i] = static_cast<uint8_t>(in[i] >> first & 15);
    out[2 * i + 1] = static_cast<uint8_t>(in[i] >> second & 15);
  }
  if (count % 2 != 0) out[count - 1] = static_cast<uint8_t>(in[count / 2] >> first & 15);
}

void order_by_group(const TensorInfo& g_idx, std::span<const int32_t> groups_of, int64_t group,
                    uint32_t* order, Scratch& scratch) {
  const auto k = std::ssize(groups_of);
  const int64_t groups = ceil_div(k, group);
  const auto filled = scratch.take<int32_t>(groups);
  std::fill(filled.begin(), filled.end(), 0);
  for (int64_t j = 0; j < k; ++j) {
    const int64_t g = groups_of[j];
    if (g < 0 || g >= groups) {
      refuse_tensor(g_idx, "element " + std::to_string(j) + " is " + std::to_string(g) +
                               ", expected a group from 0 to " + std::to_string(groups - 1));
    }
    const int64_t most = std::min(group, k - g * group);
    if (filled[g] == most) {
      refuse_tensor(g_idx, "group " + std::to_string(g) + " has more than " + std::to_string(most) +
                               " columns, expected group_size in each and the rest in the last");
    }
    order[g * group + filled[g]++] = static_cast<uint32_t>(j);
  }
}

int64_t integer_in(const JsonObject& config, const std::string& key, int64_t least, int64_t most) {
  const int64_t value = config.integer(key);
  if (value < least || value > most) {
    config.fail(key, "found " + std::to_string(value) + ", expected " + std::to_string(least) +
                         " to " + std::to_string(most));
  }
  return value;
}

}  // namespace hotset
