// Words before functions that a card's kernels call, too: HOTSET_DEVICE makes one inline, and only
// the card's where nvcc reads it; HOTSET_HOST_DEVICE leaves it the host's as well.
#pragma once

#ifdef __CUDACC__
#define HOTSET_DEVICE __device__ __forceinline__
#define HOTSET_HOST_DEVICE __host__ __device__
#else
#define HOTSET_DEVICE inline
#define HOTSET_HOST_DEVICE
#endif
