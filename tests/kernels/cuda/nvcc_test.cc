// What nvcc made of the card's kernels, read from the PTX in the build's objects and from what
// ptxas says of it: the widths of loads, the rounding of every operation, the scope of the
// mailbox's flags, registers and spills. Proves nothing of what a card does with them.
#include <cxxabi.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/on_demand.h"

namespace hotset {
namespace {

namespace fs = std::filesystem;

[[maybe_unused]] std::string contents(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// The PTX modules in an object file: plain text up to a zero byte.
[[maybe_unused]] std::vector<std::string> ptx_modules(const std::string& object) {
  std::vector<std::string> modules;
  for (size_t at = object.find("\n.version"); at != std::string::npos;
       at = object.find("\n.version", at + 1)) {
    modules.push_back(object.substr(at, object.find('\0', at) - at));
  }
  return modules;
}

// A kernel's name as in its source: row_dot_kernel<Nibbles, 1, 4>.
[[maybe_unused]] std::string plain_name(const std::string& mangled) {
  int status = 0;
  char* const text = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  std::string name = status == 0 ? text : mangled;
  std::free(text);
  name = std::regex_replace(name, std::regex("hotset::(cuda::)?"), "");
  name = std::regex_replace(name, std::regex("^void "), "");
  return name.substr(0, name.find('('));
}

// Runs a command and returns what it says.
[[maybe_unused]] std::string output_of(const std::string& command) {
  FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  std::string text;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) text += static_cast<char>(c);
  EXPECT_EQ(pclose(pipe), 0) << command << "\n" << text;
  return text;
}

class NvccTest : public testing::Test {
 protected:
  void SetUp() override {
#ifndef HOTSET_CUDA_OBJECTS
    GTEST_SKIP() << "this build has no nvcc";
#else
    std::stringstream objects(HOTSET_CUDA_OBJECTS);
    for (std::string path; std::getline(objects, path, ':');) {
      for (const std::string& module : ptx_modules(contents(path))) modules_.push_back(module);
    }
    if (!HOTSET_IS_CUDA_INSPECTABLE) {
      GTEST_SKIP() << "this build has no plain PTX: HOTSET_CUDA_INSPECTABLE=OFF";
    }
    const std::regex entry("\\.entry (\\w+)\\(");
    for (const std::string& module : modules_) {
      for (std::sregex_iterator it(module.begin(), module.end(), entry), end; it != end; ++it) {
        const auto at = static_cast<size_t>(it->position());
        kernels_[plain_name((*it)[1])] = module.substr(at, module.find(".entry ", at + 1) - at);
      }
    }
    ASSERT_FALSE(kernels_.empty()) << "no PTX in " << HOTSET_CUDA_OBJECTS;
#endif
  }

  static size_t count(const std::string& text, const std::string& expression) {
    const std::regex regex(expression);
    return static_cast<size_t>(
        std::distance(std::sregex_iterator(text.begin(), text.end(), regex), {}));
  }

  struct Use {
    int registers = 0, shared_bytes = 0, stack_bytes = 0, spilled_bytes = 0;
  };
  // What ptxas says of every kernel, compiled for a card.
  std::map<std::string, Use> uses_of(const std::string& architecture);
  void expect_limits(const std::string& architecture);

  std::vector<std::string> modules_;
  std::map<std::string, std::string> kernels_;  // name -> PTX
};

std::map<std::string, NvccTest::Use> NvccTest::uses_of(
    [[maybe_unused]] const std::string& architecture) {
  std::map<std::string, Use> uses;
#ifdef HOTSET_PTXAS
  const fs::path file = fs::path(testing::TempDir()) / (architecture + ".ptx");
  for (const std::string& module : modules_) {
    std::ofstream(file) << module;
    std::stringstream log(output_of(std::string(HOTSET_PTXAS) + " -v --gpu-name " + architecture +
                                    " " + file.string() + " -o /dev/null"));
    Use* use = nullptr;
    std::smatch match;
    for (std::string line; std::getline(log, line);) {
      const auto number = [&](const char* what) {
        return std::regex_search(line, match, std::regex("(\\d+) " + std::string(what)))
                   ? std::stoi(match[1])
                   : 0;
      };
      if (std::regex_search(line, match, std::regex("Compiling entry function '(\\w+)'"))) {
        use = &uses[plain_name(match[1])];
      }
      if (use == nullptr) continue;
      use->stack_bytes += number("bytes stack frame");
      use->spilled_bytes += number("bytes spill stores");
      use->registers += number("registers");
      use->shared_bytes += number("bytes smem");
    }
  }
  fs::remove(file);
#endif
  return uses;
}

// kernels/cuda/limits.csv: what a kernel may use, by an expression for its name, on any card.
// Blocks have 256 threads at most: 64 registers leave room for four on a processor of 65,536,
// which is all that sm_75 holds (so ptxas takes more there than elsewhere), 96 for two, 168 one.
void NvccTest::expect_limits(const std::string& architecture) {
  const std::map<std::string, Use> uses = uses_of(architecture);
  EXPECT_EQ(uses.size(), kernels_.size());
  std::ifstream table(fs::path(HOTSET_SOURCE_DIR) / "kernels/cuda/limits.csv");
  std::string line;
  std::getline(table, line);
  std::map<std::string, int> lines_for;  // kernel -> how many lines name it
  while (std::getline(table, line)) {
    std::smatch field;
    ASSERT_TRUE(std::regex_match(line, field, std::regex("\"?([^\"]*?)\"?,(\\d+),(\\d+)"))) << line;
    const std::regex name(field[1].str());
    int found = 0;
    for (const auto& [kernel, use] : uses) {
      if (!std::regex_match(kernel, name)) continue;
      ++found;
      ++lines_for[kernel];
      EXPECT_LE(use.registers, std::stoi(field[2])) << kernel << " for " << architecture;
      EXPECT_LE(use.shared_bytes, std::stoi(field[3])) << kernel << " for " << architecture;
    }
    EXPECT_GT(found, 0) << "limits.csv names a kernel that is not there: " << line;
  }
  for (const auto& [kernel, use] : uses) {
    EXPECT_EQ(lines_for[kernel], 1)
        << kernel << " has no line, or several, in limits.csv: uses " << use.registers
        << " registers, " << use.shared_bytes << " bytes of shared memory for " << architecture;
    EXPECT_EQ(use.stack_bytes, 0) << kernel << " for " << architecture;
    EXPECT_EQ(use.spilled_bytes, 0) << kernel << " for " << architecture;
  }
}

TEST_F(NvccTest, KernelsStayWithinTheirLimitsAndDoNotSpill) {
  expect_limits("sm_86");
}

using NvccLongTest = NvccTest;
TEST_F(NvccLongTest, KernelsStayWithinTheirLimitsOnEveryCard) {
  HOTSET_ON_DEMAND("HOTSET_LONG");
  for (const char* card : {"sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_120"}) {
    expect_limits(card);
  }
}

// By PTX's definition an instruction with a rounding of its own is not contracted.
TEST_F(NvccTest, EveryFloatOperationNamesItsRoundingAndNothingIsApproximate) {
  for (const auto& [name, ptx] : kernels_) {
    EXPECT_EQ(count(ptx, "\\b(add|sub|mul|div|fma|mad|sqrt|rcp)\\.(ftz\\.)?(sat\\.)?f32"), 0u)
        << name;
    EXPECT_EQ(count(ptx, "\\.ftz|\\.approx|\\.full"), 0u) << name;
    // The decay's logarithm, one a token and head, which the CPU has in double precision, too.
    if (name != "gates_kernel") {
      EXPECT_EQ(count(ptx, "\\.f64"), 0u) << name;
    }
    EXPECT_EQ(count(ptx, "\\b(ld|st)\\.local|\\.local "), 0u) << name;
  }
}

TEST_F(NvccTest, RowDotsReadWeightsSixteenBytesWideAndMultiplyFourBytesAtOnce) {
  const std::regex row_dot("row_dot_kernel<(.*), (\\d), (\\d)>");
  int seen = 0;
  for (const auto& [name, ptx] : kernels_) {
    if (name.find("_dot_kernel") == std::string::npos) continue;
    EXPECT_EQ(count(ptx, "ld\\.global(\\.nc)?\\.[us]8"), 0u) << name;
    EXPECT_GT(count(ptx, name.find("E4M3") == std::string::npos
                             ? "ld\\.global\\.nc\\.(v4\\.[ufb]32|v2\\.[ub]64)"
                             : "ld\\.global\\.nc\\.v2\\.[ufb]32"),
              0u)
        << name;
    std::smatch match;
    if (!std::regex_match(name, match, row_dot)) continue;
    ++seen;
    // Of a cell: 32 or 16 inputs of four rows, four at once, for each token and table.
    const int tables = match[1] == "TableNibbles<2>" ? 2 : 1;
    const auto products = static_cast<size_t>(32 / std::stoi(match[2]) * std::stoi(match[3])) *
                          static_cast<size_t>(tables);
    const size_t found = count(ptx, "\\bdp4a\\.");
    EXPECT_GT(found, 0u) << name;
    EXPECT_EQ(found % products, 0u) << name << " has " << found;
  }
  EXPECT_GT(seen, 8);
}

TEST_F(NvccTest, TheMailboxIsReadAndWrittenInOrderAndNeverThroughTheReadOnlyPath) {
  ASSERT_TRUE(kernels_.contains("post_kernel") && kernels_.contains("combine_kernel"));
  EXPECT_GT(count(kernels_["post_kernel"], "st\\.release\\.sys"), 0u);
  EXPECT_GT(count(kernels_["combine_kernel"], "ld\\.acquire\\.sys"), 0u);
  for (const char* name : {"post_kernel", "combine_kernel", "apply_deltas_kernel"}) {
    EXPECT_EQ(count(kernels_[name], "ld\\.global\\.nc"), 0u) << name;
  }
}

TEST_F(NvccTest, AnInspectableBinaryUsesTheSharedRuntime) {
  EXPECT_NE(contents(HOTSET_BINARY).find("libcudart.so"), std::string::npos);
}

}  // namespace
}  // namespace hotset
