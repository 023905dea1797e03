#include "tools/sidecars.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "kernels/check.h"
#include "tools/cache_folder.h"
#include "tools/progress.h"
#include "tools/size.h"

namespace hotset {
namespace {

namespace fs = std::filesystem;

// Why a sidecar of about `bytes` should not be written to `path`, or "". Makes the cache folder.
std::string reason_against(const std::string& path, uint64_t bytes, const SidecarLimits& limits) {
  const fs::path folder = fs::absolute(path).parent_path();
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return fmt::format("{}: cannot be made: {}", folder.string(), error.message());
  if (access(folder.c_str(), W_OK) != 0) return folder.string() + ": cannot be written";
  const fs::space_info disk = fs::space(folder, error);
  if (error) return fmt::format("{}: {}", folder.string(), error.message());
  const double left = static_cast<double>(disk.available) - static_cast<double>(bytes);
  if (left >= limits.free_part * static_cast<double>(disk.capacity)) return "";
  return fmt::format("{}: {} are free, a sidecar takes {} and is to leave {:.0f} % of the disk",
                     folder.string(), human_bytes(static_cast<int64_t>(disk.available)),
                     human_bytes(static_cast<int64_t>(bytes)), 100 * limits.free_part);
}

// Writes and opens it; nothing if either fails, which it says.
std::unique_ptr<Sidecar> write_to(const std::string& path, const ModelDescription& description) {
  fmt::print(stderr, "hotset: packing the model to {}, once; the next start is fast\n", path);
  try {
    ProgressBar bar;
    write_sidecar(description, path,
                  [&](int64_t done, int64_t all) { bar.update(done, all, "packing"); });
  } catch (const Error& error) {
    fmt::print(stderr, "hotset: {}\n", error.what());
    return nullptr;
  }
  return std::move(find_sidecar(description, {path}).found);
}

}  // namespace

std::string sidecar_beside(const ModelDescription& description) {
  const fs::path model = description.path;
  if (fs::is_directory(model)) return model / "model.hotset";
  // Whichever part of a split model was named.
  return fs::path(description.files.front()->path()).replace_extension(".hotset");
}

std::vector<std::string> sidecar_places(const ModelDescription& description) {
  std::vector<std::string> places = {sidecar_beside(description)};
  if (const auto folder = cache_folder()) {
    places.push_back(fmt::format("{}/{:016x}.hotset", *folder, fingerprint_of(description)));
  }
  return places;
}

SidecarSearch find_sidecar(const ModelDescription& description,
                           const std::vector<std::string>& places) {
  SidecarSearch search;
  for (const std::string& path : places) {
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    const auto on_damage = [path](const std::string& damage) {
      std::error_code ignored;
      fs::remove(path, ignored);
      fmt::print(stderr,
                 "hotset: {}; it was removed, the weights come from the model's file, and the next "
                 "start packs it again\n",
                 damage);
    };
    try {
      search.found = std::make_unique<Sidecar>(path, description, on_damage);
      break;
    } catch (const Error& refusal) {
      search.refused.push_back(refusal.what());
    }
  }
  return search;
}

std::unique_ptr<Sidecar> find_or_write_sidecar(const ModelDescription& description,
                                               const std::vector<std::string>& places,
                                               const SidecarLimits& limits) {
  SidecarSearch search = find_sidecar(description, places);
  if (search.found) return std::move(search.found);
  const bool is_worth_it = description.file_bytes() >= limits.least_model_bytes;
  for (const std::string& refusal : search.refused) {
    fmt::print(stderr, "hotset: {}; {}\n", refusal,
               is_worth_it ? "it is made anew"
                           : "it is not used: remove it, or make it anew with `hotset pack`");
  }
  if (!is_worth_it) return nullptr;
  // Packed weights are about as large as the model, a few parts in a hundred more or less.
  const uint64_t bytes = description.file_bytes() + description.file_bytes() / 16;
  std::vector<std::string> reasons;
  for (const std::string& path : places) {
    if (const std::string reason = reason_against(path, bytes, limits); !reason.empty()) {
      reasons.push_back(reason);
    } else if (auto sidecar = write_to(path, description)) {
      return sidecar;
    }
  }
  fmt::print(stderr, "hotset: no sidecar, so the model is packed at each start: {}\n",
             fmt::join(reasons, "; "));
  return nullptr;
}

}  // namespace hotset
