// From a matrix as its file has it to a packed one: which layout, how much memory it takes to read
// rows, and doing it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed.h"
#include "runtime/weights/model_description.h"

namespace hotset {

// `exact_in_bf16`: a float matrix whose every value is.
PackedFormat packed_format(const MatrixSource& source, bool exact_in_bf16 = false);

// Bytes that packing so many rows at once needs beside the packed ones.
int64_t staging_bytes(const MatrixSource& source, int64_t rows);

// Rows of a window of a few MB, whole row groups.
int64_t window_rows(const MatrixSource& source);

// Packs rows [first, first + rows); `staging` as above. The tensor's name is added to an Error.
void pack_window(const MatrixSource& source, const PackedShape& shape, int64_t first, int64_t rows,
                 std::byte* staging, std::byte* packed);
// All of them.
void pack_matrix(const MatrixSource& source, const PackedShape& shape, std::byte* staging,
                 std::byte* packed);

}  // namespace hotset
