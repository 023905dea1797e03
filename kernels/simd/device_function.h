// HOTSET_DEVICE before a function that a card's kernels call, too; nothing where no card is meant.
#pragma once

#ifdef __CUDACC__
#define HOTSET_DEVICE __device__
#else
#define HOTSET_DEVICE
#endif
