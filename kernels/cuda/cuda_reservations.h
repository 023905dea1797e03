// Addresses of which a beginning is memory, by CUDA's virtual memory management: what a card's
// slots and sequences grow and shrink in. Only for what is compiled with the CUDA toolkit.
// Thread-safe.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace hotset {

// See CardRuntime::reserve. The driver's functions are asked for while the program runs: libcuda is
// not linked, so that it starts without a driver.
class CudaReservations {
 public:
  CudaReservations();  // of the current device

  std::byte* reserve(int64_t bytes, const char* what);
  void commit(std::byte* reservation, int64_t bytes, const char* what);
  void release(std::byte* reservation) noexcept;

 private:
  struct Driver {
    decltype(&cuGetErrorName) get_error_name;
    decltype(&cuMemGetAllocationGranularity) get_granularity;
    decltype(&cuMemAddressReserve) reserve;
    decltype(&cuMemAddressFree) free;
    decltype(&cuMemCreate) create;
    decltype(&cuMemRelease) release;
    decltype(&cuMemMap) map;
    decltype(&cuMemUnmap) unmap;
    decltype(&cuMemSetAccess) set_access;
  };
  struct Reservation {
    size_t bytes = 0;
    std::vector<CUmemGenericAllocationHandle> pages;  // from the beginning on
  };
  CUdeviceptr page_address(const std::byte* reservation, size_t page) const {
    return reinterpret_cast<CUdeviceptr>(reservation) + page * page_bytes_;
  }
  size_t pages_for(int64_t bytes) const {
    return (static_cast<size_t>(bytes) + page_bytes_ - 1) / page_bytes_;
  }
  void check(CUresult result, const char* call) const;
  CUresult add_page(std::byte* reservation, Reservation& r) const;
  void drop_pages(std::byte* reservation, Reservation& r, size_t pages) const noexcept;

  int device_ = 0;
  Driver driver_;
  CUmemAllocationProp properties_ = {};
  size_t page_bytes_ = 0;
  std::mutex mutex_;
  std::map<std::byte*, Reservation> reservations_;
};

}  // namespace hotset
