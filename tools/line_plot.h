// A plain SVG of lines over percentages: hit rate against capacity.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace hotset {

struct PlotLine {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x, y: 0 to 1, by ascending x
};

std::string line_plot_svg(const std::string& title, const std::string& x_label,
                          const std::string& y_label, const std::vector<PlotLine>& lines);

}  // namespace hotset
