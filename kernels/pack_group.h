// What the packers of block types and of float types share: where one row group's part of each
// plane lies. Private to kernels/.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/packed.h"

namespace hotset {

// Up to 8 rows of a matrix in the file's form.
struct RowGroup {
  const std::byte* source = nullptr;
  int64_t stride = 0;
  int rows = 0;
  const std::byte* row(int r) const { return source + r * stride; }
};

// Where the planes of row group g lie.
Planes<std::byte*> group_planes(const PackedShape& shape, int64_t g, std::byte* packed);
// Zeroes a group that has fewer than 8 rows.
void clear_group(const Planes<std::byte*>& group, const Planes<int64_t>& bytes);

// Both write every byte of the group's planes but those of missing rows, which are zero already.
void pack_block_group(const PackedShape& shape, TensorType type, const RowGroup& group,
                      const Planes<std::byte*>& out);
void pack_float_group(const PackedShape& shape, TensorType type, const RowGroup& group,
                      const Planes<std::byte*>& out);

}  // namespace hotset
