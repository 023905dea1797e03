#include "tools/quantised_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "runtime/model/pack_matrix.h"
#include "runtime/weights/quantised/quantised.h"

namespace hotset {
namespace {

using nlohmann::ordered_json;

std::string group_text(int64_t group) {
  return group == 0 ? "row" : std::to_string(group);
}

std::string layout_text(const PackedFormat& format) {
  switch (format.layout) {
    case Layout::kP4:
      return format.two_planes ? "4 bits, 16-bit table" : "4 bits";
    case Layout::kP6:
      return "6 bits";
    case Layout::kP8:
      return "8 bits";
    case Layout::kF8:
      return "e4m3";
    case Layout::kPF:
      break;
  }
  return "f32";
}

std::string grade_text(const Grade& grade) {
  switch (grade.kind) {
    case Grade::Kind::kExact:
      return "exact";
    case Grade::Kind::kRounded:
      return "rounded";
    case Grade::Kind::kApproximate:
      break;
  }
  return fmt::format("within {:.1e} of a block's largest weight", grade.bound);
}

// Those that are computed in float32 whatever the file has (DenseLayout).
std::set<const MatrixSource*> float_matrices(const ModelDescription& model) {
  std::set<const MatrixSource*> all;
  for (const LayerTensors& layer : model.layers) {
    all.insert({&layer.router, &layer.delta_net.ba, &layer.shared_expert_gate});
  }
  return all;
}

}  // namespace

ordered_json describe_module(const QuantisedMatrix& module, bool is_float) {
  const PackedFormat format =
      is_float ? packed_format(TensorType::kF32) : packed_format(module.form(), module.k());
  const Grade grade = is_float ? Grade{} : packed_grade(module.form(), module.k());
  return {{"scheme", module.scheme()},
          {"group", group_text(module.form().block)},
          {"layout", layout_text(format)},
          {"grade", grade_text(grade)}};
}

ordered_json quantised_report(const ModelDescription& model, bool each_module) {
  const std::set<const MatrixSource*> floats = float_matrices(model);
  ordered_json report = ordered_json::array();
  std::set<const QuantisedMatrix*> seen;  // a module may make several matrices
  for_each_matrix(model, [&](const MatrixSource& matrix) {
    if (matrix.quantised == nullptr || !seen.insert(matrix.quantised.get()).second) return;
    const ordered_json entry =
        describe_module(*matrix.quantised, matrix.as_float || floats.contains(&matrix));
    const auto is_alike = [&](const ordered_json& other) {
      return other["scheme"] == entry["scheme"] && other["group"] == entry["group"] &&
             other["layout"] == entry["layout"] && other["grade"] == entry["grade"];
    };
    const auto alike =
        each_module ? report.end() : std::find_if(report.begin(), report.end(), is_alike);
    if (alike != report.end()) {
      (*alike)["modules"] = (*alike)["modules"].get<int64_t>() + 1;
      return;
    }
    report.push_back(entry);
    report.back()["modules"] = 1;
    report.back()["example"] = matrix.name;
  });
  return report;
}

void print_quantised_report(const ordered_json& report) {
  if (report.empty()) return;
  fmt::print("{:<44} {:>5}  {:<20} {:<44} {:>7}  {}\n", "scheme", "group", "layout", "grade",
             "modules", "for example");
  for (const ordered_json& entry : report) {
    const auto text = [&](const char* key) { return entry[key].get<std::string>(); };
    fmt::print("{:<44} {:>5}  {:<20} {:<44} {:>7}  {}\n", text("scheme"), text("group"),
               text("layout"), text("grade"), entry["modules"].get<int64_t>(), text("example"));
  }
}

}  // namespace hotset
