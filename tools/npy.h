// NumPy's .npy files (version 1.0, little-endian, C order), written in pieces and in any order, so
// that an array need not fit into memory.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/weights/output_file.h"

namespace hotset {

template <class T>  // float or int32_t
class NpyFile {
 public:
  NpyFile(const std::string& path, std::vector<int64_t> shape);

  const std::vector<int64_t>& shape() const { return shape_; }
  // Elements from `first` on, counted in C order.
  void write(int64_t first, std::span<const T> elements);
  // Checks that as many elements as the shape has were written, and puts the file in place.
  void commit();

 private:
  OutputFile file_;
  const std::vector<int64_t> shape_;
  uint64_t data_offset_ = 0;
  int64_t written_ = 0;
};

extern template class NpyFile<float>;
extern template class NpyFile<int32_t>;

}  // namespace hotset
