// What every family of kernels shares. Pasted in front of each source, so it includes nothing of the project.
//
// Rules: a kernel's first parameter is `long long count`, the number of work items; a thread takes every
// (number of threads)-th of them, in a FOR_EACH. Threads never wait for each other and no two write to one
// place, so the order they run in does not matter. Half precision is stored, never computed in.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// The type to compute in for each storage type: Wide<__half> is float.
template <typename T> struct WideOf { typedef float type; };
template <> struct WideOf<double> { typedef double type; };
template <typename T> using Wide = typename WideOf<T>::type;

__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }

// narrow<T>(x): x rounded to the nearest T.
template <typename T> __device__ inline T narrow(Wide<T> x) { return x; }
template <> __device__ inline __half narrow<__half>(float x) { return __float2half(x); }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16(x); }

// V neighbouring elements, moved by one instruction; their address is a multiple of their size.
template <typename T, int V> struct alignas(sizeof(T) * V) Vector {
    T at[V];
};

// Work items are counted in Index: unsigned below 2^31 of them, where division is cheap, else long long.
#define FOR_EACH(Index, i, count)                                                                   \
    for (Index i = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;                       \
         i < static_cast<Index>(count); i += static_cast<Index>(gridDim.x) * blockDim.x)

// A divisor known at launch. Below 2^31 a multiplication and a shift give the quotient (Granlund and
// Montgomery, "Division by invariant integers using multiplication", 1994).
struct Divider {
    long long divisor, magic, shift;
};

__device__ inline unsigned operator/(unsigned n, const Divider &d) {
    const unsigned high = static_cast<unsigned>((static_cast<unsigned long long>(n) * d.magic) >> 32);
    return (high + n) >> d.shift;
}

__device__ inline long long operator/(long long n, const Divider &d) { return n / d.divisor; }

// Take the last digit off i: returns i mod d, leaves i / d.
template <typename Index> __device__ inline int last_digit(Index &i, const Divider &d) {
    const Index quotient = i / d;
    const int digit = static_cast<int>(i - quotient * static_cast<Index>(d.divisor));
    i = quotient;
    return digit;
}

// Which of `windows` windows, `stride` apart, starts at `start` of a padded axis; -1 where none does.
__device__ inline int window_at(long long start, const Divider &stride, const Divider &windows) {
    if (start < 0) return -1;
    const unsigned window = static_cast<unsigned>(start) / stride;
    return window < windows.divisor && window * stride.divisor == start ? static_cast<int>(window) : -1;
}
