// An NVTX tool of thirty lines: NVTX_INJECTION64_PATH names it, and it writes every range of the
// domain `hotset` to file descriptor 9.
#include <nvtx3/nvToolsExt.h>
#include <unistd.h>

#include <cstdio>
#include <mutex>
#include <set>
#include <string>

namespace {

// A handle is the text itself, which stays.
template <class Handle>
Handle handle_of(const char* text) {
  static std::mutex mutex;
  static std::set<std::string> texts;
  const std::lock_guard lock(mutex);
  return reinterpret_cast<Handle>(const_cast<char*>(texts.emplace(text).first->c_str()));
}
nvtxDomainHandle_t create(const char* name) {
  return handle_of<nvtxDomainHandle_t>(name);
}
nvtxStringHandle_t register_string(nvtxDomainHandle_t, const char* text) {
  return handle_of<nvtxStringHandle_t>(text);
}
int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  const unsigned long long value = event->payload.ullValue;
  return dprintf(9, "push %d %s layer %d step %u KiB %u: %s\n", gettid(),
                 reinterpret_cast<const char*>(domain), static_cast<int>(event->category) - 1,
                 static_cast<unsigned>(value >> 32), static_cast<unsigned>(value),
                 reinterpret_cast<const char*>(event->message.registered));
}
int pop(nvtxDomainHandle_t) {
  return dprintf(9, "pop %d\n", gettid());
}

}  // namespace

extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* callbacks =
      static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (!callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size)) return 0;
  const auto set = [&](int at, auto* function) {
    *table[at] = reinterpret_cast<NvtxFunctionPointer>(function);
  };
  set(NVTX_CBID_CORE2_DomainCreateA, &create);
  set(NVTX_CBID_CORE2_DomainRegisterStringA, &register_string);
  set(NVTX_CBID_CORE2_DomainRangePushEx, &push);
  set(NVTX_CBID_CORE2_DomainRangePop, &pop);
  return 1;
}
