// `hotset cache`: what hotset keeps in the user's cache folder, and how it is removed. Everything
// there can be made again.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "runtime/model/score_file.h"
#include "tools/cache_folder.h"
#include "tools/commands.h"
#include "tools/config.h"
#include "tools/size.h"

namespace hotset {
namespace {

namespace fs = std::filesystem;

struct Options {
  bool json = false, all = false;
  std::vector<std::string> names;
};

struct Entry {
  std::string name;  // its path in the folder
  std::string kind, model;
  int64_t bytes = 0, age_s = 0;
};

fs::path folder_of_cache() {
  const auto folder = cache_folder();
  if (!folder) throw Error("there is no cache folder: neither XDG_CACHE_HOME nor HOME is set");
  return *folder;
}

std::string kind_of(const fs::path& file) {
  if (file.extension() == ".scores") return "scores";
  if (file.extension() == ".hotset") return "sidecar";
  return file.extension() == ".part" ? "unfinished" : "";
}

// Of what is ours, by name. A file that goes away meanwhile is left out.
std::vector<Entry> entries_in(const fs::path& folder) {
  std::vector<Entry> entries;
  std::error_code error;
  const auto now = fs::file_time_type::clock::now();
  for (fs::recursive_directory_iterator it(folder, error), end; it != end; it.increment(error)) {
    if (error || !it->is_regular_file(error) || kind_of(it->path()).empty()) continue;
    Entry entry;
    entry.name = fs::relative(it->path(), folder);
    entry.kind = kind_of(it->path());
    entry.bytes = static_cast<int64_t>(it->file_size(error));
    const auto age = now - it->last_write_time(error);
    if (error) continue;
    entry.age_s = std::chrono::duration_cast<std::chrono::seconds>(age).count();
    if (entry.kind == "scores") {
      try {
        entry.model = read_scores(it->path()).head.model_name();
      } catch (const Error&) {
        entry.kind = "damaged scores";
      }
    }
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  return entries;
}

std::string human_age(int64_t seconds) {
  if (seconds < 120) return fmt::format("{} s", seconds);
  if (seconds < 2 * 3600) return fmt::format("{} min", seconds / 60);
  if (seconds < 48 * 3600) return fmt::format("{} h", seconds / 3600);
  return fmt::format("{} days", seconds / (24 * 3600));
}

void list(const Options& options) {
  const fs::path folder = folder_of_cache();
  const std::vector<Entry> entries = entries_in(folder);
  if (options.json) {
    nlohmann::ordered_json out = {{"folder", folder}, {"files", nlohmann::json::array()}};
    for (const Entry& e : entries) {
      out["files"].push_back({{"name", e.name},
                              {"kind", e.kind},
                              {"model", e.model},
                              {"bytes", e.bytes},
                              {"age_s", e.age_s}});
    }
    fmt::print("{}\n", out.dump());
    return;
  }
  for (const Entry& e : entries) {
    fmt::print("{:<14} {:>8} {:>8}  {}{}{}\n", e.kind, human_bytes(e.bytes), human_age(e.age_s),
               e.name, e.model.empty() ? "" : "  ", e.model);
  }
  fmt::print(stderr, "{} files in {}\n", entries.size(), folder.string());
}

// Only what `ls` lists can be named. An engine that uses a file goes on with it.
void remove(const Options& options) {
  const fs::path folder = folder_of_cache();
  std::vector<Entry> doomed;
  const std::vector<Entry> entries = entries_in(folder);
  if (options.all) doomed = entries;
  for (const std::string& name : options.names) {
    const auto found = std::find_if(entries.begin(), entries.end(),
                                    [&](const Entry& e) { return e.name == name; });
    if (found == entries.end()) {
      throw Error(fmt::format("{}: {} is not there; `hotset cache ls` shows what is",
                              folder.string(), name));
    }
    doomed.push_back(*found);
  }
  for (const Entry& entry : doomed) {
    std::error_code error;
    fs::remove(folder / entry.name, error);
    if (error) throw Error(fmt::format("{}: {}", (folder / entry.name).string(), error.message()));
    fmt::print(stderr, "removed {} ({})\n", entry.name, human_bytes(entry.bytes));
  }
}

}  // namespace

void add_cache_command(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("cache", "What is kept in the user's cache folder");
  command->require_subcommand(1);
  command->add_flag("--json", o->json, "with ls: one JSON object on stdout");
  CLI::App* ls = command->add_subcommand("ls", "list saved scores and sidecars: size, age, name");
  ls->fallthrough();
  ls->callback([o] { list(*o); });
  CLI::App* rm =
      command->add_subcommand("rm", "remove some of them; all of them can be made again");
  auto* names = rm->add_option("names", o->names, "as `hotset cache ls` shows them");
  rm->add_flag("--all", o->all, "everything")->excludes(names);
  rm->callback([o] {
    if (!o->all && o->names.empty()) throw ConfigError("cache rm: expected names, or --all");
    remove(*o);
  });
  command->footer("Example:\n  hotset cache ls\n  hotset cache rm scores/0123456789abcdef.scores");
}

}  // namespace hotset
