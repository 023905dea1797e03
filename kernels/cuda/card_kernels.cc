// Which compilers' kernels this build has.
#include "kernels/cuda/card_kernels.h"

namespace hotset {

namespace emulated {
extern const CardKernels kCardKernels;
}
#if HOTSET_HAS_CUDA
namespace cuda {
extern const CardKernels kCardKernels;
}
#endif

const CardKernels& emulated_kernels() {
  return emulated::kCardKernels;
}

const CardKernels* cuda_kernels() {
#if HOTSET_HAS_CUDA
  return &cuda::kCardKernels;
#else
  return nullptr;
#endif
}

}  // namespace hotset
