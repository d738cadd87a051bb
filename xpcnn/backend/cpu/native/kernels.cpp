// The compiled kernels of the NumPy backend: plain C functions over channels-last memory, called through ctypes.
//
// Each is there for float (f32_…) and double (f64_…). None allocates memory, keeps state or starts threads: scratch memory
// comes from the caller, who also cuts the work for threads.
#include "passes.hpp"
#include "winograd.hpp"

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

// The checksum of the sources, by which a library that is older or newer than the Python beside it is told.
EXPORT long sources() { return SOURCES; }

// Which of x86-64's levels this processor has; the other versions are not to be loaded on less. 0 elsewhere.
EXPORT int processor_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"))) return 1;
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))) return 2;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd")))
        return 3;
    return 4;
#else
    return 0;
#endif
}

#define WINOGRAD(T, P, M) \
    EXPORT void P##_winograd##M##_pack(const Shape *g, const T *weight, int turned, T *to) { winograd_pack<T, M>(*g, weight, turned, to); } \
    EXPORT long P##_winograd##M##_packed_size(long outs, long ins) { return winograd_packed_size<T, M>(outs, ins); } \
    EXPORT long P##_winograd##M##_scratch(const Shape *g, long tiles) { return winograd_scratch<T, M>(*g, tiles); } \
    EXPORT long P##_winograd##M##_forward(const Shape *g, const T *x, const Layout *x_at, const T *packed, const T *bias, int mode, T *y, long first, \
                                          long last, T *scratch) { \
        return winograd_forward<T, M>(*g, x, *x_at, packed, bias, Epilogue(mode), y, first, last, scratch); \
    } \
    EXPORT void P##_winograd##M##_grad_weight(const Shape *g, const T *x, const Layout *x_at, const T *dy, const Layout *dy_at, T *sums, long first, \
                                              long last, T *scratch) { \
        winograd_grad_weight<T, M>(*g, x, *x_at, dy, *dy_at, sums, first, last, scratch); \
    } \
    EXPORT long P##_winograd##M##_unpack(const Shape *g, const T *sums, T *weight) { return winograd_unpack<T, M>(*g, sums, weight); }

#define KERNELS(T, P) \
    EXPORT long P##_width() { return WIDTH<T>; } \
    EXPORT long P##_packed_forward_size(const Shape *g) { return packed_forward_size<T>(*g); } \
    EXPORT long P##_packed_turned_size(const Shape *g) { return packed_turned_size<T>(*g); } \
    EXPORT void P##_pack_forward(const Shape *g, const T *weight, T *to) { pack_forward(*g, weight, to); } \
    EXPORT void P##_pack_turned(const Shape *g, const T *weight, T *to) { pack_turned(*g, weight, to); } \
    EXPORT long P##_forward_scratch(const Shape *g) { return forward_scratch<T>(*g); } \
    EXPORT void P##_forward(const Shape *g, const T *x, const Layout *x_at, const T *packed, const T *bias, int mode, T *y, T *scratch) { \
        forward(*g, x, *x_at, packed, bias, Epilogue(mode), y, scratch); \
    } \
    EXPORT long P##_grad_input_scratch(const Shape *g) { return grad_input_scratch<T>(*g); } \
    EXPORT void P##_grad_input(const Shape *g, const T *dy, const Layout *dy_at, const T *packed, T *dx, T *scratch) { \
        grad_input(*g, dy, *dy_at, packed, dx, scratch); \
    } \
    EXPORT long P##_grad_weight_size(const Shape *g) { return grad_weight_size<T>(*g); } \
    EXPORT long P##_grad_weight_scratch(const Shape *g) { return grad_weight_scratch<T>(*g); } \
    EXPORT void P##_grad_weight(const Shape *g, const T *x, const Layout *x_at, const T *dy, const Layout *dy_at, T *sums, T *scratch) { \
        grad_weight(*g, x, *x_at, dy, *dy_at, sums, scratch); \
    } \
    EXPORT void P##_unpack(const Shape *g, const T *sums, T *weight) { unpack(*g, sums, weight); } \
    WINOGRAD(T, P, 2) \
    WINOGRAD(T, P, 4) \
    EXPORT void P##_max_pool(const Pool *g, const T *x, T *y) { max_pool(*g, x, y); } \
    EXPORT void P##_max_pool_gradient(const Pool *g, const T *dy, const T *x, const T *y, int positive, T *dx) { \
        max_pool_gradient(*g, dy, x, y, positive, dx); \
    } \
    EXPORT void P##_avg_pool(const Pool *g, const T *x, int padded, T *y) { avg_pool(*g, x, bool(padded), y); } \
    EXPORT void P##_avg_pool_gradient(const Pool *g, const T *dy, int padded, T *dx) { avg_pool_gradient(*g, dy, bool(padded), dx); } \
    EXPORT void P##_sum_channels(const T *x, long pixels, long c, double *sums) { sum_channels(x, pixels, c, sums); } \
    EXPORT void P##_moments(const T *x, const T *centre, long pixels, long c, double *sums) { moments(x, centre, pixels, c, sums); } \
    EXPORT void P##_normalise(const T *x, const T *mean, const T *scale, const T *offset, int rectify, long pixels, long c, T *y) { \
        normalise(x, mean, scale, offset, rectify, pixels, c, y); \
    } \
    EXPORT void P##_norm_sums(const T *dy, const T *x, const T *y, const T *mean, long pixels, long c, double *sums) { \
        norm_sums(dy, x, y, mean, pixels, c, sums); \
    } \
    EXPORT void P##_norm_gradient(const T *dy, const T *x, const T *y, const T *mean, const T *scale, const T *slope, const T *offset, \
                                  long pixels, long c, T *dx) { \
        norm_gradient(dy, x, y, mean, scale, slope, offset, pixels, c, dx); \
    } \
    EXPORT void P##_relu(const T *x, T *y, long count) { rectify(x, y, count); } \
    EXPORT void P##_relu_gradient(const T *dy, const T *y, T *dx, long count) { rectify_gradient(dy, y, dx, count); } \
    EXPORT void P##_add(const T *a, const T *b, T *y, long count) { add(a, b, y, count); } \
    EXPORT void P##_add_bias(T *y, const T *bias, int rectify, long pixels, long c) { add_bias(y, bias, bool(rectify), pixels, c); } \
    EXPORT void P##_cross_entropy(const T *x, const T *target, long rows, long classes, T *logarithms, double *sum) { \
        cross_entropy(x, target, rows, classes, logarithms, sum); \
    } \
    EXPORT void P##_cross_entropy_gradient(const T *logarithms, const T *target, double scale, long rows, long classes, T *dx) { \
        cross_entropy_gradient(logarithms, target, T(scale), rows, classes, dx); \
    } \
    EXPORT void P##_sgd(T *fresh, const T *data, const T *gradient, T *velocity, double lr, double momentum, int nesterov, double decay, \
                        long count) { \
        sgd(fresh, data, gradient, velocity, T(lr), T(momentum), bool(nesterov), T(decay), count); \
    } \
    EXPORT void P##_adam(T *fresh, const T *data, const T *gradient, T *mean, T *square, double beta1, double beta2, double eps, double rate, \
                         double root, double decay, double shrink, long count) { \
        adam(fresh, data, gradient, mean, square, beta1, beta2, T(eps), T(rate), T(root), T(decay), T(shrink), count); \
    }

KERNELS(float, f32)
KERNELS(double, f64)
