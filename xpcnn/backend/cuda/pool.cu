// Maxima and means over windows, and their gradients.
#include "common.cuh"

struct ImageStrides {
    long long n, c, h, w;  // in elements
};

// One pooling of images (N, C, H, W) to (N, C, OH, OW). `channels` is C/V where a thread takes V channels.
struct Pooling {
    Divider channels, height, width, oh, ow, sh, sw;
    long long kh, kw, ph, pw, count_include_pad;
    ImageStrides x, y, dy;
};

// The address of V channels of one pixel.
template <int V, typename T>
__device__ inline const Vector<T, V> &pixel(const T *images, const ImageStrides &strides, long long n,
                                            long long c, long long h, long long w) {
    return *reinterpret_cast<const Vector<T, V> *>(images + n * strides.n + c * strides.c + h * strides.h +
                                                   w * strides.w);
}

__device__ inline bool inside(long long h, long long w, const Pooling &p) {
    return h >= 0 && h < p.height.divisor && w >= 0 && w < p.width.divisor;
}

// How many positions of window i along one axis its average counts.
__device__ inline long long counted(long long i, long long size, long long kernel, long long stride,
                                    long long padding, bool include_pad) {
    const long long start = i * stride - padding, end = size + (include_pad ? padding : 0);
    const long long first = !include_pad && start < 0 ? 0 : start;
    const long long stop = start + kernel < end ? start + kernel : end;
    return stop - first;
}

// 1 / divisor of window (i, j).
template <typename T> __device__ inline Wide<T> window_scale(long long i, long long j, const Pooling &p) {
    const long long rows = counted(i, p.height.divisor, p.kh, p.sh.divisor, p.ph, p.count_include_pad);
    const long long columns = counted(j, p.width.divisor, p.kw, p.sw.divisor, p.pw, p.count_include_pad);
    return Wide<T>(1) / static_cast<Wide<T>>(rows * columns);
}

// A thread takes V channels of one window; padding is below every number, and a NaN stays once met.
// Neighbouring threads read and write neighbouring channels; y is channels-last.
template <typename T, int V, typename Index>
__global__ void max_pool_windows(long long count, const T *x, T *y, Pooling p) {
    FOR_EACH(Index, item, count) {
        Index rest = item;
        const long long c = last_digit(rest, p.channels) * V;
        const long long left = last_digit(rest, p.ow) * p.sw.divisor - p.pw;
        const long long top = last_digit(rest, p.oh) * p.sh.divisor - p.ph;
        const long long n = rest;
        Vector<T, V> best{};
        bool empty = true;
        for (long long h = top; h < top + p.kh; ++h) {
            for (long long w = left; w < left + p.kw; ++w) {
                if (!inside(h, w, p)) continue;
                const Vector<T, V> value = pixel<V>(x, p.x, n, c, h, w);
                for (int v = 0; v < V; ++v) {
                    const Wide<T> next = widen(value.at[v]);
                    if (empty || next > widen(best.at[v]) || next != next) best.at[v] = value.at[v];
                }
                empty = false;
            }
        }
        reinterpret_cast<Vector<T, V> *>(y)[item] = best;
    }
}

// Whether some pixel of the window (i, j), row by row before its tap (r, s), equals its maximum.
template <typename T>
__device__ inline bool met_before(const T *x, Wide<T> maximum, long long n, long long c, int i, int j, int r,
                                  int s, const Pooling &p) {
    const long long top = i * p.sh.divisor - p.ph, left = j * p.sw.divisor - p.pw;
    for (int row = 0; row <= r; ++row) {
        for (int column = 0; column < (row < r ? p.kw : s); ++column) {
            const long long h = top + row, w = left + column;
            if (inside(h, w, p) && widen(pixel<1>(x, p.x, n, c, h, w).at[0]) == maximum) return true;
        }
    }
    return false;
}

// A thread gathers V channels of one pixel of dx from the windows that hold it: those whose maximum it is,
// and no pixel before it. Neighbouring threads read and write neighbouring channels; dx is channels-last.
template <typename T, int V, typename Index>
__global__ void max_pool_scatter(long long count, const T *dy, const T *x, const T *y, T *dx, Pooling p) {
    FOR_EACH(Index, item, count) {
        Index rest = item;
        const long long c = last_digit(rest, p.channels) * V;
        const int w = last_digit(rest, p.width);
        const int h = last_digit(rest, p.height);
        const long long n = rest;
        const Vector<T, V> here = pixel<V>(x, p.x, n, c, h, w);
        Wide<T> sum[V] = {};
        for (int r = 0; r < p.kh; ++r) {
            const int i = window_at(h + p.ph - r, p.sh, p.oh);
            if (i < 0) continue;
            for (int s = 0; s < p.kw; ++s) {
                const int j = window_at(w + p.pw - s, p.sw, p.ow);
                if (j < 0) continue;
                const Vector<T, V> maximum = pixel<V>(y, p.y, n, c, i, j);
                const Vector<T, V> gradient = pixel<V>(dy, p.dy, n, c, i, j);
                for (int v = 0; v < V; ++v) {
                    const Wide<T> value = widen(here.at[v]);
                    if (value == widen(maximum.at[v]) && !met_before(x, value, n, c + v, i, j, r, s, p))
                        sum[v] += widen(gradient.at[v]);
                }
            }
        }
        Vector<T, V> total;
        for (int v = 0; v < V; ++v) total.at[v] = narrow<T>(sum[v]);
        reinterpret_cast<Vector<T, V> *>(dx)[item] = total;
    }
}

// A thread takes V channels of one window. Neighbouring threads read and write neighbouring channels; y is
// channels-last.
template <typename T, int V, typename Index>
__global__ void avg_pool_windows(long long count, const T *x, T *y, Pooling p) {
    FOR_EACH(Index, item, count) {
        Index rest = item;
        const long long c = last_digit(rest, p.channels) * V;
        const int j = last_digit(rest, p.ow);
        const int i = last_digit(rest, p.oh);
        const long long n = rest;
        const long long top = i * p.sh.divisor - p.ph, left = j * p.sw.divisor - p.pw;
        Wide<T> sum[V] = {};
        for (long long h = top; h < top + p.kh; ++h) {
            for (long long w = left; w < left + p.kw; ++w) {
                if (!inside(h, w, p)) continue;
                const Vector<T, V> value = pixel<V>(x, p.x, n, c, h, w);
                for (int v = 0; v < V; ++v) sum[v] += widen(value.at[v]);
            }
        }
        const Wide<T> scale = window_scale<T>(i, j, p);
        Vector<T, V> mean;
        for (int v = 0; v < V; ++v) mean.at[v] = narrow<T>(sum[v] * scale);
        reinterpret_cast<Vector<T, V> *>(y)[item] = mean;
    }
}

// A thread gathers V channels of one pixel of dx: its share of every window that holds it. Neighbouring
// threads read and write neighbouring channels; dx is channels-last.
template <typename T, int V, typename Index>
__global__ void avg_pool_scatter(long long count, const T *dy, T *dx, Pooling p) {
    FOR_EACH(Index, item, count) {
        Index rest = item;
        const long long c = last_digit(rest, p.channels) * V;
        const int w = last_digit(rest, p.width);
        const int h = last_digit(rest, p.height);
        const long long n = rest;
        Wide<T> sum[V] = {};
        for (int r = 0; r < p.kh; ++r) {
            const int i = window_at(h + p.ph - r, p.sh, p.oh);
            if (i < 0) continue;
            for (int s = 0; s < p.kw; ++s) {
                const int j = window_at(w + p.pw - s, p.sw, p.ow);
                if (j < 0) continue;
                const Vector<T, V> gradient = pixel<V>(dy, p.dy, n, c, i, j);
                const Wide<T> scale = window_scale<T>(i, j, p);
                for (int v = 0; v < V; ++v) sum[v] += widen(gradient.at[v]) * scale;
            }
        }
        Vector<T, V> total;
        for (int v = 0; v < V; ++v) total.at[v] = narrow<T>(sum[v]);
        reinterpret_cast<Vector<T, V> *>(dx)[item] = total;
    }
}
