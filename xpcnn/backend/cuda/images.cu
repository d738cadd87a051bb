// Bytes of images to floating numbers.
#include "common.cuh"

// a * b and a - b, each rounded on its own, so that the results have the bits of two separate operations.
#ifdef __CUDA_ARCH__
__device__ inline float product(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double product(double a, double b) { return __dmul_rn(a, b); }
#else
template <typename A> __device__ inline A product(A a, A b) { return a * b; }
#endif

// A thread makes one number: x * scale - shift, of half precision in float. Images are C-contiguous (N, C, H, W). `constants` are the
// scales and then the shifts of `kinds` channels, or of all where `kinds` is 1.
template <typename T, typename Index>
__global__ void scale_images(long long count, const unsigned char *x, T *y, Divider channels, Divider height,
                             Divider width, const Wide<T> *constants, long long kinds) {
    FOR_EACH(Index, item, count) {
        Index plane = item / width / height;
        const int channel = last_digit(plane, channels);
        const long long kind = kinds == 1 ? 0 : channel;
        const Wide<T> byte = x[item];
        y[item] = narrow<T>(product(byte, constants[kind]) - constants[kinds + kind]);
    }
}
