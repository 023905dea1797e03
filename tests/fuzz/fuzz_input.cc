// Inputs as files (see fuzz_input.h).
#include "tests/fuzz/fuzz_input.h"

#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "kernels/check.h"

namespace hotset {
namespace {

void write_all(std::ofstream out, const uint8_t* data, size_t size) {
  out.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  out.close();
  HOTSET_CHECK(!out.fail(), "the input can be written");
}

}  // namespace

MemoryFile::MemoryFile(const uint8_t* data, size_t size) : fd_(::memfd_create("fuzz", 0)) {
  HOTSET_CHECK(fd_ >= 0, "memfd_create");
  path_ = "/proc/self/fd/" + std::to_string(fd_);
  write_all(std::ofstream(path_, std::ios::binary), data, size);
}

MemoryFile::~MemoryFile() {
  ::close(fd_);
}

FuzzFolder::FuzzFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "hotset-fuzz-XXXXXX").string();
  HOTSET_CHECK(::mkdtemp(name.data()) != nullptr, "mkdtemp");
  path_ = name;
}

FuzzFolder::~FuzzFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void FuzzFolder::write(const std::string& name, const uint8_t* data, size_t size) const {
  write_all(std::ofstream(path_ + "/" + name, std::ios::binary | std::ios::trunc), data, size);
}

void FuzzFolder::add_sound(const std::string& name) const {
  std::filesystem::create_symlink(HOTSET_SOURCE_DIR "/tests/data/bad/good/hf/" + name,
                                  path_ + "/" + name);
}

}  // namespace hotset
