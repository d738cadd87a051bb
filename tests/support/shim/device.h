// Enough of CUDA for a host's C++ compiler: the grid is a loop over threads that run one after another.
#pragma once
#include <math.h>
#include <cstddef>
#include <type_traits>
#include <utility>

#define __global__ static
#define __device__
#define __forceinline__ inline
#define __restrict__

struct Place {
    unsigned x, y, z;
};
static Place threadIdx, blockIdx, blockDim, gridDim;

// Runs every thread of a kernel, last thread first if asked; `args` point at the arguments, as for cuLaunchKernel.
template <typename... Parameters, std::size_t... Positions>
void run_threads(void (*kernel)(Parameters...), void **args, std::index_sequence<Positions...>) {
    kernel(*static_cast<std::remove_const_t<Parameters> *>(args[Positions])...);
}

// The bytes of one parameter; 0 beyond the last.
template <typename... Parameters> std::size_t parameter_size(void (*)(Parameters...), unsigned position) {
    const std::size_t sizes[] = {sizeof(Parameters)...};
    return position < sizeof...(Parameters) ? sizes[position] : 0;
}

template <typename... Parameters>
void run_grid(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, bool backwards, void **args) {
    gridDim = {blocks, 1, 1};
    blockDim = {threads, 1, 1};
    for (unsigned i = 0; i < blocks * threads; ++i) {
        const unsigned thread = backwards ? blocks * threads - 1 - i : i;
        blockIdx = {thread / threads, 0, 0};
        threadIdx = {thread % threads, 0, 0};
        run_threads(kernel, args, std::index_sequence_for<Parameters...>{});
    }
}
