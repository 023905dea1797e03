// Every call of CUDA's runtime goes through HOTSET_CUDA_CHECK: an Error that names call, place and
// CUDA's word for what happened. Only for what is compiled with the CUDA toolkit.
#pragma once

#include <cuda_runtime_api.h>

namespace hotset {

[[noreturn]] void fail_cuda_call(cudaError_t error, const char* call, const char* file, int line);

}  // namespace hotset

#define HOTSET_CUDA_CHECK(call)                                          \
  do {                                                                   \
    const cudaError_t hotset_error = (call);                             \
    if (hotset_error != cudaSuccess) {                                   \
      ::hotset::fail_cuda_call(hotset_error, #call, __FILE__, __LINE__); \
    }                                                                    \
  } while (false)
