// Text for error messages about files that we do not trust: names from a file are shown as
// printable ASCII with a bounded length, shapes in one notation.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace hotset {

// `text` with every byte that is not printable ASCII replaced by '?', cut after `limit` bytes:
// names are ASCII in every sound file, and messages must stay valid UTF-8.
std::string printable(std::string_view text, size_t limit = 200);

// "[512, 2048]", slowest dimension first.
std::string shape_text(std::span<const int64_t> dims);

}  // namespace hotset
