// Packing into PF: element j of the group's 8 rows side by side. Float types keep their element,
// or drop to bf16 where the caller found every value exact in it; any type decodes into f32.
#include <algorithm>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/formats/block_layout.h"
#include "kernels/pack_group.h"

namespace hotset {
namespace {

// Elements turned at a time: 8 rows of a tile stay in the first-level cache. A multiple of 256, so
// that it is whole blocks of every type.
constexpr int64_t kTile = 256;

// tile: [8][kTile], rows one after the other; out: [n][8].
template <class Element>
void interleave(const Element* tile, int64_t n, std::byte* out) {
  for (int64_t j = 0; j < n; ++j) {
    Element column[8];
    for (int r = 0; r < 8; ++r) column[r] = tile[r * kTile + j];
    std::memcpy(out + j * static_cast<int64_t>(sizeof column), column, sizeof column);
  }
}

// Reads n elements of a row from element j on into `out`.
template <class Element>
void read_tile(TensorType type, const std::byte* row, int64_t j, int64_t n, Element* out) {
  const std::byte* source = row + row_bytes(type, j);
  if constexpr (std::is_same_v<Element, float>) {
    dequantise_row(type, source, out, n);
  } else {
    std::memcpy(out, source, static_cast<size_t>(n) * sizeof(Element));
  }
}

// Reads floats and halves that the caller says are exact in bf16.
void read_tile_as_bf16(TensorType type, const std::byte* row, int64_t j, int64_t n, uint16_t* out) {
  float values[kTile];
  dequantise_row(type, row + row_bytes(type, j), values, n);
  uint32_t lost = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<uint32_t>(values[i]);
    lost |= bits & 0xffff;
    out[i] = static_cast<uint16_t>(bits >> 16);
  }
  HOTSET_CHECK(lost == 0, "packing into bf16 would round a weight");
}

template <class Element, class Read>
void pack_tiles(const PackedShape& shape, const RowGroup& group, std::byte* out, const Read& read) {
  for (int64_t j = 0; j < shape.k; j += kTile) {
    // Missing rows, and the inputs after the last one, stay zero.
    Element tile[8 * kTile] = {};
    const int64_t n = std::min(kTile, shape.k - j);
    for (int r = 0; r < group.rows; ++r) read(group.row(r), j, n, tile + r * kTile);
    interleave(tile, std::min(kTile, shape.float_inputs() - j),
               out + j * 8 * static_cast<int64_t>(sizeof(Element)));
  }
}

}  // namespace

void pack_float_group(const PackedShape& shape, TensorType type, const RowGroup& group,
                      const Planes<std::byte*>& out) {
  const TensorType element = shape.format.element;
  if (element == TensorType::kF32) {
    pack_tiles<float>(shape, group, out.codes,
                      [type](const std::byte* row, int64_t j, int64_t n, float* tile) {
                        read_tile(type, row, j, n, tile);
                      });
  } else if (element == type) {
    pack_tiles<uint16_t>(shape, group, out.codes,
                         [type](const std::byte* row, int64_t j, int64_t n, uint16_t* tile) {
                           read_tile(type, row, j, n, tile);
                         });
  } else {
    pack_tiles<uint16_t>(shape, group, out.codes,
                         [type](const std::byte* row, int64_t j, int64_t n, uint16_t* tile) {
                           read_tile_as_bf16(type, row, j, n, tile);
                         });
  }
}

}  // namespace hotset
