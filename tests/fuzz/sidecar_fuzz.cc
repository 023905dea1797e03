// Any bytes as a sidecar of a sound model: refused by an Error, or read. The head's magic, version,
// fingerprint and checksum are made right first: an input is to get past them.
// Seeds: none is needed; a sidecar of tests/data/bad/good/model.gguf helps.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/check.h"
#include "runtime/model/expert_file_source.h"
#include "runtime/model/sidecar.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace hotset;

const ModelDescription& model() {
  static const ModelDescription opened =
      open_model(HOTSET_SOURCE_DIR "/tests/data/bad/good/model.gguf");
  return opened;
}

void make_head_plausible(std::vector<uint8_t>& bytes) {
  static const uint64_t fingerprint = fingerprint_of(model());
  if (bytes.size() < sizeof(SidecarHead)) return;
  SidecarHead head;
  const SidecarHead sound;
  std::memcpy(&head, bytes.data(), sizeof(head));
  head.magic = sound.magic;
  head.packed_version = sound.packed_version;
  head.fingerprint = fingerprint;
  head.file_bytes = bytes.size();
  SidecarTables tables;
  size_t at = sizeof(head);
  const auto take = [&](auto& table, uint64_t count) {
    table.resize(std::min<uint64_t>(count, (bytes.size() - at) / sizeof(table[0])));
    if (table.empty()) return;
    std::memcpy(table.data(), bytes.data() + at, table.size() * sizeof(table[0]));
    at += table.size() * sizeof(table[0]);
  };
  take(tables.exact_in_bf16, head.matrices);
  take(tables.dense_sums,
       head.dense_bytes / kSidecarBlock + (head.dense_bytes % kSidecarBlock != 0));
  take(tables.expert_sums, head.experts * kExpertParts);
  head.checksum = head_checksum(head, tables);
  std::memcpy(bytes.data(), &head, sizeof(head));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  make_head_plausible(bytes);
  const MemoryFile file(bytes.data(), bytes.size());
  try {
    Sidecar sidecar(file.path(), model(), [](const std::string&) {});
    std::vector<std::byte> image(static_cast<size_t>(sidecar.dense_bytes()));
    for (int64_t block = 0; block < sidecar.dense_blocks(); ++block) {
      sidecar.read_dense_block(block, image);
    }
    const std::vector<ExpertShape> shapes = expert_shapes(model());
    for (int32_t layer = 0; layer < std::ssize(shapes); ++layer) {
      std::vector<std::byte> blob(static_cast<size_t>(shapes[layer].bytes));
      for (int32_t expert = 0; expert < model().config.num_experts; ++expert) {
        sidecar.read_expert({layer, expert}, blob);
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
