#include "runtime/weights/keep_model.h"

#include <filesystem>

#include "kernels/check.h"

namespace hotset {

void check_keeps_model(const ModelDescription& model, const std::string& path) {
  for (const File* file : model.files) {
    std::error_code error;  // neither is there: nothing is lost
    if (std::filesystem::equivalent(path, file->path(), error)) {
      throw Error(path + ": is the model itself, expected another file to write");
    }
  }
}

}  // namespace hotset
