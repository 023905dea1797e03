#if HOTSET_HAS_CUDA

#include "kernels/cuda/cuda_reservations.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/card_runtime.h"
#include "kernels/cuda/cuda_check.h"

namespace hotset {

namespace {

template <class Function>
void find(Function& function, const char* name) {
  void* found = nullptr;
#if CUDART_VERSION >= 12050
  HOTSET_CUDA_CHECK(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault));
#else
  HOTSET_CUDA_CHECK(cudaGetDriverEntryPoint(name, &found, cudaEnableDefault));
#endif
  if (found == nullptr) {
    throw CardError(fmt::format("the NVIDIA driver does not know {}: update the driver", name));
  }
  function = reinterpret_cast<Function>(found);
}

}  // namespace

CudaReservations::CudaReservations() {
  find(driver_.get_error_name, "cuGetErrorName");
  find(driver_.get_granularity, "cuMemGetAllocationGranularity");
  find(driver_.reserve, "cuMemAddressReserve");
  find(driver_.free, "cuMemAddressFree");
  find(driver_.create, "cuMemCreate");
  find(driver_.release, "cuMemRelease");
  find(driver_.map, "cuMemMap");
  find(driver_.unmap, "cuMemUnmap");
  find(driver_.set_access, "cuMemSetAccess");
  HOTSET_CUDA_CHECK(cudaGetDevice(&device_));
  properties_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties_.location = {CU_MEM_LOCATION_TYPE_DEVICE, device_};
  check(driver_.get_granularity(&page_bytes_, &properties_, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
        "cuMemGetAllocationGranularity");
}

void CudaReservations::check(CUresult result, const char* call) const {
  if (result == CUDA_SUCCESS) return;
  const char* name = nullptr;
  driver_.get_error_name(result, &name);
  throw CardError(
      fmt::format("the card: {} from {}", name != nullptr ? name : "an unknown error", call));
}

std::byte* CudaReservations::reserve(int64_t bytes, const char* what) {
  const size_t rounded = std::max<size_t>(1, pages_for(bytes)) * page_bytes_;
  CUdeviceptr address = 0;
  if (driver_.reserve(&address, rounded, 0, 0, 0) != CUDA_SUCCESS) {
    throw CardError(
        fmt::format("the card's driver has no {} bytes of addresses for {}", rounded, what));
  }
  auto* const reservation = reinterpret_cast<std::byte*>(address);
  const std::lock_guard lock(mutex_);
  reservations_[reservation].bytes = rounded;
  return reservation;
}

// The driver's calls belong to a context, which a thread that has used no card yet is given here.
void CudaReservations::commit(std::byte* reservation, int64_t bytes, const char* what) {
  HOTSET_CUDA_CHECK(cudaSetDevice(device_));
  const std::lock_guard lock(mutex_);
  Reservation& r = reservations_.at(reservation);
  const size_t before = r.pages.size(), wanted = pages_for(bytes);
  HOTSET_CHECK(wanted * page_bytes_ <= r.bytes, "more memory than addresses were reserved for");
  while (r.pages.size() < wanted) {
    const CUresult result = add_page(reservation, r);
    if (result == CUDA_SUCCESS) continue;
    drop_pages(reservation, r, before);
    if (result != CUDA_ERROR_OUT_OF_MEMORY) check(result, "cuMemCreate, cuMemMap, cuMemSetAccess");
    throw CardError(
        fmt::format("the card has no {} MiB left for {}: lower --vram, or end what else uses the "
                    "card",
                    ((wanted - before) * page_bytes_) >> 20, what));
  }
  drop_pages(reservation, r, wanted);
}

CUresult CudaReservations::add_page(std::byte* reservation, Reservation& r) const {
  const CUdeviceptr address = page_address(reservation, r.pages.size());
  CUmemGenericAllocationHandle page = 0;
  CUresult result = driver_.create(&page, page_bytes_, &properties_, 0);
  if (result != CUDA_SUCCESS) return result;
  result = driver_.map(address, page_bytes_, 0, page, 0);
  if (result != CUDA_SUCCESS) {
    driver_.release(page);
    return result;
  }
  r.pages.push_back(page);  // from here on drop_pages gives it back
  const CUmemAccessDesc access = {properties_.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  return driver_.set_access(address, page_bytes_, &access, 1);
}

void CudaReservations::drop_pages(std::byte* reservation, Reservation& r,
                                  size_t pages) const noexcept {
  for (; r.pages.size() > pages; r.pages.pop_back()) {
    driver_.unmap(page_address(reservation, r.pages.size() - 1), page_bytes_);
    driver_.release(r.pages.back());
  }
}

void CudaReservations::release(std::byte* reservation) noexcept {
  const std::lock_guard lock(mutex_);
  const auto at = reservations_.find(reservation);
  drop_pages(reservation, at->second, 0);
  driver_.free(reinterpret_cast<CUdeviceptr>(reservation), at->second.bytes);
  reservations_.erase(at);
}

}  // namespace hotset

#endif
