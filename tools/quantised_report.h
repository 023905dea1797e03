// What becomes of the modules of a quantised checkpoint: the scheme that the file keeps them in,
// the packed layout, and how near that is to the file.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "runtime/weights/model_description.h"

namespace hotset {

// {scheme, group, layout, grade} of a module; is_float: one that is computed in float32 whatever
// the file has.
nlohmann::ordered_json describe_module(const QuantisedMatrix& module, bool is_float);

// A list of {scheme, group, layout, grade, modules, example}, modules alike counted together, or
// one entry a module. Empty where nothing is quantised by a scheme of a Hugging Face folder.
nlohmann::ordered_json quantised_report(const ModelDescription& model, bool each_module);
// As a table on stdout.
void print_quantised_report(const nlohmann::ordered_json& report);

}  // namespace hotset
