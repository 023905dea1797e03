// Which instruction sets this machine has, and so which kernel tables it can run.
#include "kernels/cpu/kernel_table.h"

#include <cpuid.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string_view>

#include "kernels/check.h"

namespace hotset {

namespace portable {
extern const KernelTable kTable;
}
namespace avx2 {
extern const KernelTable kTable;
}
namespace avx512 {
extern const KernelTable kTable;
}
namespace avx512vnni {
extern const KernelTable kTable;
}
namespace amx {
extern const KernelTable kTable;
}

namespace {

// The same sets as the flags in kernels/CMakeLists.txt, except for F16C: clang 14 (the fuzzers')
// cannot ask for it, and every processor with AVX2 has it.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool has_avx512vnni() {
  return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
// Linux gives a process the tiles' 8 KB of state once it asks for them: for all of its threads.
bool has_amx() {
  static const bool is_granted = [] {
    constexpr unsigned kTile = 1U << 24, kInt8 = 1U << 25;  // leaf 7, EDX
    constexpr long kAskForState = 0x1023,
                   kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    return (d & kTile) != 0 && (d & kInt8) != 0 &&
           syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
  }();
  return is_granted && has_avx512vnni();
}

}  // namespace

const KernelTable* find_kernel_table(const char* name) {
  const std::string_view wanted = name;
  if (wanted == "portable") return &portable::kTable;
  if (wanted == "avx2" && has_avx2()) return &avx2::kTable;
  if (wanted == "avx512" && has_avx512()) return &avx512::kTable;
  if (wanted == "avx512vnni" && has_avx512vnni()) return &avx512vnni::kTable;
  if (wanted == "amx" && has_amx()) return &amx::kTable;
  return nullptr;
}

const KernelTable& best_kernel_table() {
  const KernelTable* best = nullptr;
  for (const char* name : kKernelTableNames) {
    if (const KernelTable* table = find_kernel_table(name)) best = table;
  }
  HOTSET_CHECK(best != nullptr, "the portable table runs anywhere");
  return *best;
}

const KernelTable& kernel_table_named(const char* name) {
  if (std::string_view(name) == "auto") return best_kernel_table();
  if (const KernelTable* table = find_kernel_table(name)) return *table;
  throw Error(fmt::format(
      "cpu.isa: this machine cannot run '{}'; portable runs everywhere, auto takes the best ({})",
      name, best_kernel_table().name));
}

}  // namespace hotset
