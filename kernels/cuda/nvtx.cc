#include "kernels/cuda/nvtx.h"

#if HOTSET_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace hotset {

#if HOTSET_NVTX

NvtxDomain::NvtxDomain(std::span<const char* const> names) : domain_(nvtxDomainCreateA("hotset")) {
  const auto domain = static_cast<nvtxDomainHandle_t>(domain_);
  for (const char* name : names) names_.push_back(nvtxDomainRegisterStringA(domain, name));
}

NvtxDomain::~NvtxDomain() {
  nvtxDomainDestroy(static_cast<nvtxDomainHandle_t>(domain_));
}

void NvtxDomain::push(int name, int32_t layer, uint32_t step, int64_t bytes) const {
  nvtxEventAttributes_t event = {};
  event.version = NVTX_VERSION;
  event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  event.category = static_cast<uint32_t>(layer + 1);
  event.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
  event.payload.ullValue = uint64_t{step} << 32 | static_cast<uint32_t>((bytes + 1023) / 1024);
  event.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
  event.message.registered = static_cast<nvtxStringHandle_t>(names_[name]);
  nvtxDomainRangePushEx(static_cast<nvtxDomainHandle_t>(domain_), &event);
}

void NvtxDomain::pop() const {
  nvtxDomainRangePop(static_cast<nvtxDomainHandle_t>(domain_));
}

#else

NvtxDomain::NvtxDomain(std::span<const char* const>) {}
NvtxDomain::~NvtxDomain() = default;
void NvtxDomain::push(int, int32_t, uint32_t, int64_t) const {}
void NvtxDomain::pop() const {}

#endif

}  // namespace hotset
