// Whether the system granted the huge pages that Memory asks for.
#pragma once

#include <istream>
#include <optional>

namespace hotset {

// Of the resident bytes of this process' Memory regions (they alone ask for huge pages), the part
// that is on huge pages. Nothing where the system does not say, or where none is resident.
std::optional<double> huge_page_share();
std::optional<double> huge_page_share(std::istream& smaps);

}  // namespace hotset
