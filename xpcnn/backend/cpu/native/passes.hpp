// Pooling, batch normalisation, activations and updates: passes over memory, each number touched once.
#pragma once
#include "simd.hpp"

// -- pooling ------------------------------------------------------------------------------

struct Pool { long n, h, w, c, oh, ow, kh, kw, sh, sw, top, left; };

// f(pixel, top, bottom, left, right) for the windows of one image, with the rows and columns that they reach.
template <class F> static inline void over_windows(const Pool &g, F f) {
    for (long i = 0; i < g.oh; i++) {
        const long top = std::max(0L, i * g.sh - g.top), bottom = std::min(g.h, i * g.sh - g.top + g.kh);
        for (long j = 0; j < g.ow; j++) f(i * g.ow + j, top, bottom, std::max(0L, j * g.sw - g.left), std::min(g.w, j * g.sw - g.left + g.kw));
    }
}

template <class T> static void max_pool(const Pool &g, const T *x, T *y) {
    for (long n = 0; n < g.n; n++, x += g.h * g.w * g.c, y += g.oh * g.ow * g.c)
        over_windows(g, [&](long pixel, long top, long bottom, long left, long right) {
            over_channels<T>(g.c, [&](auto lanes, long q) {
                auto most = typename decltype(lanes)::Register{} - T(INFINITY);
                for (long r = top; r < bottom; r++)
                    for (long s = left; s < right; s++) {
                        const auto v = lanes.load(x + (r * g.w + s) * g.c + q);
                        most = ((v > most) | (v != v)) ? v : most;  // NaN is the largest
                    }
                lanes.store(y + pixel * g.c + q, most);
            });
        });
}

// The gradient of a window goes to the first pixel that equals its maximum; with `positive`, only where that is above 0.
template <class T> static void max_pool_gradient(const Pool &g, const T *dy, const T *x, const T *y, bool positive, T *dx) {
    const bool apart = g.kh <= g.sh && g.kw <= g.sw;
    if (!(g.kh == g.sh && g.kw == g.sw && g.oh * g.sh == g.h && g.ow * g.sw == g.w && !g.top && !g.left))
        std::memset(dx, 0, sizeof(T) * g.n * g.h * g.w * g.c);
    for (long n = 0; n < g.n; n++, x += g.h * g.w * g.c, dx += g.h * g.w * g.c, y += g.oh * g.ow * g.c, dy += g.oh * g.ow * g.c)
        over_windows(g, [&](long pixel, long top, long bottom, long left, long right) {
            over_channels<T>(g.c, [&](auto lanes, long q) {
                typedef typename decltype(lanes)::Register Numbers;
                const Numbers most = lanes.load(y + pixel * g.c + q), zero = {};
                Numbers gradient = lanes.load(dy + pixel * g.c + q);  // what no pixel has had yet
                if (positive) gradient = most > zero ? gradient : zero;
                auto free = most == most;
                for (long r = top; r < bottom; r++)
                    for (long s = left; s < right; s++) {
                        const long at = (r * g.w + s) * g.c + q;
                        const auto hit = (lanes.load(x + at) == most) & free;
                        free &= ~hit;
                        const Numbers part = hit ? gradient : zero;
                        lanes.store(dx + at, apart ? part : lanes.load(dx + at) + part);
                    }
            });
        });
}

// How many positions an average counts along one axis: those inside the image, or those inside its padding too.
static inline long counted(long i, long stride, long padding, long kernel, long size, bool padded) {
    const long start = i * stride - padding, stop = std::min(start + kernel, size + padding);
    return padded ? stop - start : std::min(stop, size) - std::max(start, 0L);
}

template <class T> static T average_factor(const Pool &g, long pixel, bool padded) {
    const long rows = counted(pixel / g.ow, g.sh, g.top, g.kh, g.h, padded), columns = counted(pixel % g.ow, g.sw, g.left, g.kw, g.w, padded);
    return T(1) / T(rows * columns);
}

template <class T> static void avg_pool(const Pool &g, const T *x, bool padded, T *y) {
    for (long n = 0; n < g.n; n++, x += g.h * g.w * g.c, y += g.oh * g.ow * g.c)
        over_windows(g, [&](long pixel, long top, long bottom, long left, long right) {
            const T factor = average_factor<T>(g, pixel, padded);
            over_channels<T>(g.c, [&](auto lanes, long q) {
                auto sum = typename decltype(lanes)::Register{};
                for (long r = top; r < bottom; r++)
                    for (long s = left; s < right; s++) sum += lanes.load(x + (r * g.w + s) * g.c + q);
                lanes.store(y + pixel * g.c + q, sum * factor);
            });
        });
}

template <class T> static void avg_pool_gradient(const Pool &g, const T *dy, bool padded, T *dx) {
    std::memset(dx, 0, sizeof(T) * g.n * g.h * g.w * g.c);
    for (long n = 0; n < g.n; n++, dx += g.h * g.w * g.c, dy += g.oh * g.ow * g.c)
        over_windows(g, [&](long pixel, long top, long bottom, long left, long right) {
            const T factor = average_factor<T>(g, pixel, padded);
            over_channels<T>(g.c, [&](auto lanes, long q) {
                const auto part = lanes.load(dy + pixel * g.c + q) * factor;
                for (long r = top; r < bottom; r++)
                    for (long s = left; s < right; s++) {
                        T *to = dx + (r * g.w + s) * g.c + q;
                        lanes.store(to, lanes.load(to) + part);
                    }
            });
        });
}

// -- sums over the pixels, for each channel -------------------------------------------------

constexpr long SOME_PIXELS = 32;  // that are added up before their sum is widened to float64

// `add(lanes, at, channel, sums)` is called for all numbers, and its sums added up over the pixels to (COUNT, C), in float64.
template <class T, int COUNT, class F> static void sum_pixels(long pixels, long c, F add, double *sums) {
    for (long first = 0; first < pixels; first += SOME_PIXELS) {
        const long last = std::min(pixels, first + SOME_PIXELS);
        over_channels<T>(c, [&](auto lanes, long q) {
            typename decltype(lanes)::Register some[COUNT] = {};
            for (long p = first; p < last; p++) add(lanes, p * c + q, q, some);
            for (int i = 0; i < COUNT; i++)
                for (int v = 0; v < lanes.lanes; v++) sums[i * c + q + v] += some[i][v];
        });
    }
}

template <class T> static void sum_channels(const T *x, long pixels, long c, double *sums) {
    sum_pixels<T, 1>(pixels, c, [&](auto lanes, long at, long, auto *sum) { sum[0] += lanes.load(x + at); }, sums);
}

// -- batch normalisation ---------------------------------------------------------------------

// Sums of x − centre and of its squares.
template <class T> static void moments(const T *x, const T *centre, long pixels, long c, double *sums) {
    sum_pixels<T, 2>(
        pixels, c,
        [&](auto lanes, long at, long q, auto *sum) {
            const auto v = lanes.load(x + at) - lanes.load(centre + q);
            sum[0] += v, sum[1] += v * v;
        },
        sums);
}

// y = (x − mean) · scale + offset, or what a ReLU lets through of it.
template <class T> static void normalise(const T *x, const T *mean, const T *scale, const T *offset, bool rectify, long pixels, long c, T *y) {
    for (long p = 0; p < pixels; p++, x += c, y += c)
        for (long q = 0; q < c; q++) {
            const T v = (x[q] - mean[q]) * scale[q] + offset[q];
            y[q] = rectify && v < 0 ? T(0) : v;
        }
}

// Sums of dy · (x − mean) and of dy, where y is positive if there is one.
template <class T> static void norm_sums(const T *dy, const T *x, const T *y, const T *mean, long pixels, long c, double *sums) {
    sum_pixels<T, 2>(
        pixels, c,
        [&](auto lanes, long at, long q, auto *sum) {
            auto d = lanes.load(dy + at);
            if (y) d = lanes.load(y + at) > T(0) ? d : decltype(d){};
            sum[0] += d * (lanes.load(x + at) - lanes.load(mean + q)), sum[1] += d;
        },
        sums);
}

// dx = (dy + (x − mean) · slope + offset) · scale, with dy where y is positive if there is one; dy · scale without a slope.
template <class T>
static void norm_gradient(const T *dy, const T *x, const T *y, const T *mean, const T *scale, const T *slope, const T *offset, long pixels, long c, T *dx) {
    for (long p = 0; p < pixels; p++, dy += c, x += c, dx += c) {
        for (long q = 0; q < c; q++) {
            const T d = y && !(y[q] > 0) ? T(0) : dy[q];
            dx[q] = (slope ? d + ((x[q] - mean[q]) * slope[q] + offset[q]) : d) * scale[q];
        }
        if (y) y += c;
    }
}

// -- one number at a time ----------------------------------------------------------------------

template <class T> static void rectify(const T *x, T *y, long count) {
    for (long i = 0; i < count; i++) y[i] = x[i] < 0 ? T(0) : x[i];
}
template <class T> static void rectify_gradient(const T *dy, const T *y, T *dx, long count) {
    for (long i = 0; i < count; i++) dx[i] = y[i] > 0 ? dy[i] : T(0);
}
template <class T> static void add(const T *a, const T *b, T *y, long count) {
    for (long i = 0; i < count; i++) y[i] = a[i] + b[i];
}
template <class T> static void add_bias(T *y, const T *bias, bool rectify, long pixels, long c) {
    for (long p = 0; p < pixels; p++, y += c)
        for (long q = 0; q < c; q++) {
            const T v = y[q] + bias[q];
            y[q] = rectify && v < 0 ? T(0) : v;
        }
}

// -- softmax cross-entropy ---------------------------------------------------------------------

// Adds −Σ target · log softmax(x) to `sum`, and writes the log-probabilities of each row.
template <class T> static void cross_entropy(const T *x, const T *target, long rows, long classes, T *logarithms, double *sum) {
    for (long r = 0; r < rows; r++, x += classes, target += classes, logarithms += classes) {
        T most = x[0];
        for (long i = 1; i < classes; i++) most = std::max(most, x[i]);
        double total = 0, loss = 0;
        for (long i = 0; i < classes; i++) {
            logarithms[i] = x[i] - most;  // −inf where that is beyond the dtype
            total += std::exp(logarithms[i]);
        }
        const T log_total = T(std::log(total));
        for (long i = 0; i < classes; i++) {
            logarithms[i] -= log_total;
            if (target[i] != 0) loss -= double(target[i]) * logarithms[i];  // an impossible class that is not wanted counts as 0
        }
        *sum += loss;
    }
}

// dx = (softmax · Σ target − target) · scale, from the log-probabilities.
template <class T> static void cross_entropy_gradient(const T *logarithms, const T *target, T scale, long rows, long classes, T *dx) {
    for (long r = 0; r < rows; r++, logarithms += classes, target += classes, dx += classes) {
        T total = 0;
        for (long i = 0; i < classes; i++) total += target[i];
        for (long i = 0; i < classes; i++) dx[i] = (std::exp(logarithms[i]) * total - target[i]) * scale;
    }
}

// -- updates of parameters ------------------------------------------------------------------------

template <class T>
static void sgd(T *fresh, const T *data, const T *gradient, T *velocity, T lr, T momentum, bool nesterov, T decay, long count) {
    for (long i = 0; i < count; i++) {
        T g = decay != 0 ? gradient[i] + decay * data[i] : gradient[i];
        if (velocity) {
            velocity[i] = velocity[i] * momentum + g;
            g = nesterov ? g + momentum * velocity[i] : velocity[i];
        }
        fresh[i] = data[i] - g * lr;
    }
}

// `rate` is lr / (1 − beta1ᵗ), `root` √(1 − beta2ᵗ); `shrink` multiplies the weights first, as AdamW does.
template <class T>
static void adam(T *fresh, const T *data, const T *gradient, T *mean, T *square, double beta1, double beta2, T eps, T rate, T root, T decay, T shrink, long count) {
    const T keep = T(beta2), rest1 = T(1 - beta1), rest2 = T(1 - beta2);
    for (long i = 0; i < count; i++) {
        const T g = decay != 0 ? gradient[i] + decay * data[i] : gradient[i];
        const T m = mean[i] + (g - mean[i]) * rest1, v = square[i] * keep + g * g * rest2;
        mean[i] = m, square[i] = v;
        fresh[i] = data[i] * shrink - m / (std::sqrt(v) / root + eps) * rate;
    }
}
