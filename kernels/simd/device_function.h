// HOTSET_DEVICE before an inline function that a card's kernels call, too.
#pragma once

#ifdef __CUDACC__
#define HOTSET_DEVICE __device__ __forceinline__
#else
#define HOTSET_DEVICE inline
#endif
