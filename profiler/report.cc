#include "profiler/report.h"

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/check.h"
#include "profiler/page.h"

namespace hotset {
namespace {

using nlohmann::ordered_json;

void replace(std::string& text, const std::string& what, const std::string& with) {
  const size_t at = text.find(what);
  HOTSET_CHECK(at != std::string::npos, "the page has changed without its report");
  text.replace(at, what.size(), with);
}

bool is_tick(const ordered_json& line) {
  for (const char* key : {"unix_ms", "hit_rate", "hit_rate_10s", "hit_rate_60s", "tokens"}) {
    if (!line.contains(key) || !line[key].is_number()) return false;
  }
  for (const char* key : {"token_ms", "split_ms", "reuse_distance"}) {
    if (!line.contains(key) || !line[key].is_object()) return false;
  }
  return true;
}

// A script's text ends at "</script", whatever it is inside of.
std::string for_script(const ordered_json& state) {
  std::string text;
  for (const char c : state.dump(-1, ' ', false, ordered_json::error_handler_t::replace)) {
    text += c == '<' ? "\\u003c" : std::string(1, c);
  }
  return text;
}

}  // namespace

std::string report_of(const std::string& log, const std::string& name) {
  ordered_json state = {{"engines", ordered_json::array()},
                        {"history", ordered_json::array()},
                        {"slow", ordered_json::array()}};
  std::map<std::string, ordered_json> last;  // of each engine; the one with the heat, if any
  std::istringstream lines(log);
  for (std::string text; std::getline(lines, text);) {
    const ordered_json line = ordered_json::parse(text, nullptr, false);
    if (!line.is_object()) continue;
    if (line.contains("text") && line["text"].is_string()) {
      state["slow"].push_back(line);
    } else if (is_tick(line)) {
      last[line.value("pid", ordered_json()).dump()] = line;
      state["history"].push_back(line);
      for (const char* key : {"heat", "layers"}) state["history"].back().erase(key);
    }
  }
  if (state["history"].empty()) {
    throw Error(name + ": has no line of a daemon's tick, expected a log of hotset daemon");
  }
  for (const auto& [pid, line] : last) state["engines"].push_back(line);
  std::string page = kPageHtml;
  replace(page, "<link rel=\"stylesheet\" href=\"page.css\">",
          std::string("<style>\n") + kPageStyle + "</style>");
  replace(page, "<script src=\"chart.js\"></script>",
          std::string("<script>\n") + kPageCharts + "</script>");
  replace(page, "<script src=\"page.js\"></script>",
          "<script id=\"data\" type=\"application/json\">" + for_script(state) +
              "</script>\n<script>\n" + kPageScript + "</script>");
  return page;
}

}  // namespace hotset
