// What is written about a model must not be written over it.
#pragma once

#include <string>

#include "runtime/weights/model_description.h"

namespace hotset {

// Throws Error if `path` is, by whatever name, one of the files that the model is read from.
void check_keeps_model(const ModelDescription& model, const std::string& path);

}  // namespace hotset
