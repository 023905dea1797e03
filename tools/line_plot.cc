#include "tools/line_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace hotset {
namespace {

constexpr double kWidth = 720, kHeight = 440, kLeft = 60, kTop = 40, kRight = 150, kBottom = 50;
// Told apart by people with any colour vision (Okabe and Ito).
constexpr std::array<const char*, 7> kColours = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                                 "#E69F00", "#56B4E9", "#000000"};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += c;
    }
  }
  return out;
}

std::string label(double x, double y, const char* anchor, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     escaped(text));
}

}  // namespace

std::string line_plot_svg(const std::string& title, const std::string& x_label,
                          const std::string& y_label, const std::vector<PlotLine>& lines) {
  double most_x = 0.01;
  for (const PlotLine& line : lines) {
    for (const auto& [x, y] : line.points) most_x = std::max(most_x, x);
  }
  const auto place_x = [&](double x) { return kLeft + x / most_x * (kWidth - kLeft - kRight); };
  const auto place_y = [&](double y) { return kHeight - kBottom - y * (kHeight - kTop - kBottom); };
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" "
      "font-size=\"13\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n",
      kWidth, kHeight);
  for (int i = 0; i <= 5; ++i) {
    const double part = i / 5.0, y = place_y(part), x = place_x(part * most_x);
    svg += fmt::format("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"#ddd\"/>\n", kLeft, y,
                       kWidth - kRight);
    svg += label(kLeft - 8, y + 4, "end", fmt::format("{:.0f} %", 100 * part));
    svg += label(x, kHeight - kBottom + 18, "middle", fmt::format("{:.3g} %", 100 * part * most_x));
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    const char* colour = kColours[i % kColours.size()];
    std::string path;
    for (const auto& [x, y] : lines[i].points) {
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", place_x(x), place_y(y));
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", place_x(x),
                         place_y(y), colour);
    }
    svg += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n", path,
                       colour);
    const double y = kTop + 10 + 20 * static_cast<double>(i);
    svg += fmt::format("<path d=\"M{:.1f} {:.1f}h22\" stroke=\"{}\" stroke-width=\"2\"/>\n",
                       kWidth - kRight + 10, y - 4, colour);
    svg += label(kWidth - kRight + 38, y, "start", lines[i].name);
  }
  svg += label(kLeft, kTop - 16, "start", title);
  svg += label((kLeft + kWidth - kRight) / 2, kHeight - 12, "middle", x_label);
  svg += fmt::format("<g transform=\"translate(14 {:.1f}) rotate(-90)\">{}</g>\n",
                     (kTop + kHeight - kBottom) / 2, label(0, 0, "middle", y_label));
  return svg + "</svg>\n";
}

}  // namespace hotset
