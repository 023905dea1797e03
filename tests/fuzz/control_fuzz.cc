// Any bytes as what comes over a control socket, in pieces: requests, or refused by an Error; a
// request's own line says the same. Seeds: none is needed.
#include <algorithm>
#include <string_view>

#include "tools/control_protocol.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hotset;
  LineBuffer lines;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  while (!rest.empty()) {
    const size_t piece = std::min<size_t>(rest.size(), 1 + static_cast<uint8_t>(rest[0]) * 16);
    const bool fits = lines.push(rest.substr(0, piece));
    rest.remove_prefix(piece);
    while (const auto line = lines.next()) {
      HOTSET_CHECK(line->size() <= LineBuffer::kMost, "no line is longer than the most");
      try {
        const ControlRequest request = parse_request(*line);
        std::string again = request.line();
        HOTSET_CHECK(again.find('\n') == again.size() - 1, "a request is one line");
        again.pop_back();
        HOTSET_CHECK(parse_request(again).command == request.command, "it says the same");
      } catch (const ConfigError& error) {
        refusal_line(error.what(), true);
      }
    }
    if (!fits) break;
  }
  return 0;
}
