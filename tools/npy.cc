#include "tools/npy.h"

#include <fmt/format.h>

#include <functional>
#include <numeric>
#include <type_traits>
#include <utility>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr size_t kAlignment = 64;  // of the data, as the format asks

// "(2, 3)", "(2,)", "()": a Python tuple.
std::string tuple(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (const int64_t size : shape) text += std::to_string(size) + ", ";
  if (shape.size() > 1) text.resize(text.size() - 2);
  if (shape.size() == 1) text.pop_back();
  return text + ")";
}

int64_t elements_of(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

}  // namespace

template <class T>
NpyFile<T>::NpyFile(const std::string& path, std::vector<int64_t> shape)
    : file_(path), shape_(std::move(shape)) {
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}",
                                   std::is_same_v<T, float> ? "<f4" : "<i4", tuple(shape_));
  const std::string magic("\x93NUMPY\x01\x00", 8);
  const size_t unpadded = magic.size() + 2 + header.size() + 1;
  header.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  header += '\n';
  const std::string length = {static_cast<char>(header.size() & 0xFF),
                              static_cast<char>(header.size() >> 8)};
  const std::string all = magic + length + header;
  file_.write(0, std::as_bytes(std::span(all)));
  data_offset_ = all.size();
}

template <class T>
void NpyFile<T>::write(int64_t first, std::span<const T> elements) {
  HOTSET_CHECK(first >= 0 && first + std::ssize(elements) <= elements_of(shape_),
               "elements lie inside the array");
  file_.write(data_offset_ + static_cast<uint64_t>(first) * sizeof(T), std::as_bytes(elements));
  written_ += std::ssize(elements);
}

template <class T>
void NpyFile<T>::commit() {
  HOTSET_CHECK(written_ == elements_of(shape_), "every element was written once");
  file_.commit();
}

template class NpyFile<float>;
template class NpyFile<int32_t>;

}  // namespace hotset
