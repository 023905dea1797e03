// The rules of the tree that a reader relies on: who may include whom, where printing, intrinsics
// and CUDA may appear, how long things may be. Words that a rule forbids are put together from
// pieces here, so that this file passes it.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace hotset::test {
namespace {

namespace fs = std::filesystem;

constexpr size_t kFileLines = 500, kFunctionLines = 150, kColumns = 100;

struct SourceFile {
  std::string path;  // from the root, with /
  std::vector<std::string> lines;

  bool is_under(const std::string& folder) const { return path.starts_with(folder + "/"); }
  std::string folder() const { return path.substr(0, path.find('/')); }
};

const fs::path& root() {
  static const fs::path path = HOTSET_SOURCE_DIR;
  return path;
}

bool is_code(const fs::path& path) {
  static const std::set<std::string> endings = {".h", ".cc", ".cu", ".cuh"};
  return endings.contains(path.extension());
}

SourceFile read(const fs::path& path) {
  SourceFile file{fs::relative(path, root()).generic_string(), {}};
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) file.lines.push_back(line);
  return file;
}

// Everything that is kept, without what builds leave behind and without test data.
std::vector<fs::path> kept_files() {
  static const std::set<std::string> skipped = {".git", "build", ".cache", "__pycache__"};
  std::vector<fs::path> files;
  for (auto it = fs::recursive_directory_iterator(root()); it != fs::end(it); ++it) {
    const std::string path = fs::relative(it->path(), root()).generic_string();
    if (skipped.contains(it->path().filename()) || path == "tests/data") {
      it.disable_recursion_pending();  // .git is a file in a second working tree
    } else if (it->is_regular_file()) {
      files.push_back(it->path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

const std::vector<SourceFile>& code() {
  static const std::vector<SourceFile> files = [] {
    std::vector<SourceFile> read_files;
    for (const fs::path& path : kept_files()) {
      if (is_code(path)) read_files.push_back(read(path));
    }
    return read_files;
  }();
  return files;
}

// Every line of code that matches and whose file is not excused, as path:line: text.
template <class Excused>
std::string lines_with(const std::string& pattern, Excused excused) {
  const std::regex expression(pattern);
  std::string found;
  for (const SourceFile& file : code()) {
    if (excused(file)) continue;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      if (!std::regex_search(file.lines[i], expression)) continue;
      found += file.path + ":" + std::to_string(i + 1) + ": " + file.lines[i] + "\n";
    }
  }
  return found;
}

constexpr auto kNobody = [](const SourceFile&) { return false; };

TEST(TidyTest, TheWalkSeesTheTree) {
  EXPECT_GT(code().size(), 50U);
}

TEST(TidyTest, NoIncludeGoesUpward) {
  static const std::map<std::string, std::set<std::string>> may_include = {
      {"kernels", {"kernels"}},
      {"cache", {"cache", "kernels"}},
      {"runtime", {"runtime", "cache", "kernels"}},
      {"profiler", {"profiler", "cache", "kernels"}},
      {"tools", {"tools", "runtime", "profiler", "cache", "kernels"}},
      {"tests", {"tests", "tools", "runtime", "profiler", "cache", "kernels"}}};
  const std::regex expression("^\\s*#\\s*include\\s+\"([^\"]+)\"");
  for (const SourceFile& file : code()) {
    ASSERT_TRUE(may_include.contains(file.folder())) << file.path << " lies in no module";
    for (const std::string& line : file.lines) {
      std::smatch match;
      if (!std::regex_search(line, match, expression)) continue;
      const std::string path = match[1];
      const size_t slash = path.find('/');
      ASSERT_NE(slash, std::string::npos) << file.path << ": write " << path << " from the root";
      EXPECT_TRUE(may_include.at(file.folder()).contains(path.substr(0, slash)))
          << file.path << " must not include " << path;
    }
  }
}

TEST(TidyTest, CudaHeadersAreIncludedOnlyUnderKernelsCuda) {
  EXPECT_EQ(lines_with("#\\s*include\\s*[<\"](cuda|cub/|thrust/|cooperative_groups|nvtx|mma\\.h)",
                       [](const SourceFile& f) {
                         return f.is_under("kernels/cuda") || f.is_under("tests/nvtx");
                       }),
            "");
}

// One file asks the processor what it has.
TEST(TidyTest, IntrinsicsAreIncludedOnlyUnderKernelsSimd) {
  EXPECT_EQ(lines_with("#\\s*include\\s*<([a-z0-9]*intrin|arm_neon|arm_sve|cpuid)\\.h>",
                       [](const SourceFile& f) {
                         return f.is_under("kernels/simd") || f.path == "kernels/kernel_table.cc";
                       }),
            "");
}

// Where caches go, and the choice of tests that take minutes.
TEST(TidyTest, TheEnvironmentIsReadInTwoPlaces) {
  EXPECT_EQ(lines_with(std::string("\\b(secure_)?get") + "env\\b|\\bextern char\\b.*environ",
                       [](const SourceFile& f) {
                         return f.path == "tools/cache_folder.cc" ||
                                f.path == "tests/support/on_demand.h";
                       }),
            "");
}

TEST(TidyTest, OnlyToolsAndTestsPrint) {
  const std::string words = std::string("\\b(f|v|vf)?print") +
                            "f\\s*\\(|\\bf?puts\\s*\\(|\\bfmt::print\\b|\\bstd::c" +
                            "(out|err|log)\\b|#\\s*include\\s*<iostream>";
  EXPECT_EQ(lines_with(words,
                       [](const SourceFile& f) {
                         return f.is_under("tools") || f.is_under("tests") ||
                                f.path == "kernels/check.cc";  // the last words of an abort
                       }),
            "");
}

TEST(TidyTest, NoWorkIsLeftForLater) {
  EXPECT_EQ(lines_with(std::string("\\b(TO") + "DO|FIX" + "ME|XX" + "X)\\b", kNobody), "");
}

TEST(TidyTest, LinesFitAHundredColumns) {
  for (const SourceFile& file : code()) {
    for (size_t i = 0; i < file.lines.size(); ++i) {
      const std::string& line = file.lines[i];
      // Bytes that continue a UTF-8 character take no column.
      const auto columns =
          std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; });
      EXPECT_LE(columns, kColumns) << file.path << ":" << i + 1;
    }
  }
}

TEST(TidyTest, FilesHaveAtMostFiveHundredLines) {
  for (const SourceFile& file : code()) EXPECT_LE(file.lines.size(), kFileLines) << file.path;
}

// A function ends at a lone brace in column 0 (a member: in column 2) and begins at the line before
// it that starts in that column: all of its own lines stand further in.
TEST(TidyTest, FunctionsFitTwoScreens) {
  const std::regex type("^ *(template.*)?(namespace|class|struct|enum|union)\\b");
  for (const SourceFile& file : code()) {
    for (const std::string indent : {"", "  "}) {
      size_t begin = 0;
      for (size_t i = 0; i < file.lines.size(); ++i) {
        const std::string& line = file.lines[i];
        if (line == indent + "}" && !std::regex_search(file.lines[begin], type)) {
          EXPECT_LE(i - begin + 1, kFunctionLines)
              << file.path << ":" << begin + 1 << ": " << file.lines[begin];
        }
        const bool is_here = line.starts_with(indent) && line.size() > indent.size();
        if (is_here && std::string(" #/}").find(line[indent.size()]) == std::string::npos)
          begin = i;
      }
    }
  }
}

TEST(TidyTest, NoFileKnowsTheMachineItWasWrittenOn) {
  const std::regex machine(std::string("(^|[^A-Za-z0-9_.])/(wo") + "rk|ro" + "ot|ho" + "me)/");
  static const std::set<std::string> texts = {".md",   ".py",  ".sh",   ".txt",
                                              ".yaml", ".yml", ".json", ".cmake"};
  for (const fs::path& path : kept_files()) {
    if (!is_code(path) && path.has_extension() && !texts.contains(path.extension())) continue;
    const SourceFile file = read(path);
    for (size_t i = 0; i < file.lines.size(); ++i) {
      EXPECT_FALSE(std::regex_search(file.lines[i], machine))
          << file.path << ":" << i + 1 << ": " << file.lines[i];
    }
  }
}

// A path from the root, or from the folder of the file that mentions it.
TEST(TidyTest, EveryDocumentThatIsMentionedExists) {
  const std::regex mention("[A-Za-z0-9_./-]*[A-Za-z0-9_-]\\.md\\b");
  for (const fs::path& path : kept_files()) {
    const SourceFile file = read(path);
    for (size_t i = 0; i < file.lines.size(); ++i) {
      const std::string& line = file.lines[i];
      for (std::sregex_iterator it(line.begin(), line.end(), mention), end; it != end; ++it) {
        const std::string name = it->str();
        EXPECT_TRUE(fs::exists(root() / name) || fs::exists(path.parent_path() / name))
            << file.path << ":" << i + 1 << " mentions " << name;
      }
    }
  }
}

TEST(TidyTest, TheTopLevelIsTheAgreedOne) {
  const std::set<std::string> agreed = {
      "CMakeLists.txt", "CMakePresets.json", ".clang-format", ".clang-tidy", ".gitignore", ".ci",
      "LICENSE",        "CHANGELOG.md",      "README.md",     "docs",        "runtime",    "cache",
      "profiler",       "kernels",           "configs",       "tests",       "tools"};
  const std::set<std::string> ignored = {".git", "build", ".cache"};
  std::set<std::string> found;
  for (const auto& entry : fs::directory_iterator(root())) {
    const std::string name = entry.path().filename();
    if (!ignored.contains(name)) found.insert(name);
  }
  EXPECT_EQ(found, agreed);
}

TEST(TidyTest, TheDefaultsAreAFile) {
  EXPECT_TRUE(fs::is_regular_file(root() / "configs/default.yaml"));
}

}  // namespace
}  // namespace hotset::test
