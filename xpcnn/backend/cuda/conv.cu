// Unfolding patches into the rows of a matrix, folding them back, and adding the bias.
#include "common.cuh"

// One convolution over images (N, C, H, W); strides count elements. `channels` is C, or C/V where a thread
// moves a vector of V channels: strides and sizes then still count elements.
struct Patches {
    Divider channels, kh, kw, oh, ow, height, width, sh, sw;
    long long top, left, dh, dw;
    long long x_n, x_c, x_h, x_w;           // strides of the images
    long long columns_row, columns_column;  // strides of the matrix
};

// A thread copies V channels of one kernel tap of one patch, or zeros where that lies over the padding.
// Neighbouring threads write neighbours in the matrix, whose columns are ordered (kh, kw, C), and read
// neighbouring channels.
template <typename T, int V, typename Index>
__global__ void unfold(long long count, const T *x, T *columns, Patches p) {
    FOR_EACH(Index, item, count) {
        Index rest = item;
        const int c = last_digit(rest, p.channels) * V;
        const int s = last_digit(rest, p.kw);
        const int r = last_digit(rest, p.kh);
        const long long w = last_digit(rest, p.ow) * p.sw.divisor - p.left + s * p.dw;
        const long long h = last_digit(rest, p.oh) * p.sh.divisor - p.top + r * p.dh;
        const long long n = rest;
        Vector<T, V> value{};
        if (h >= 0 && h < p.height.divisor && w >= 0 && w < p.width.divisor)
            value = reinterpret_cast<const Vector<T, V> *>(x + n * p.x_n + c * p.x_c + h * p.x_h + w * p.x_w)[0];
        reinterpret_cast<Vector<T, V> *>(columns)[item] = value;
    }
}

// As unfold, one element a thread, columns ordered (C, kh, kw): neighbouring threads read along a kernel row.
template <typename T, typename Index>
__global__ void unfold_classical(long long count, const T *x, T *columns, Patches p) {
    FOR_EACH(Index, item, count) {
        Index rest = item;
        const int s = last_digit(rest, p.kw);
        const int r = last_digit(rest, p.kh);
        const int c = last_digit(rest, p.channels);
        const long long w = last_digit(rest, p.ow) * p.sw.divisor - p.left + s * p.dw;
        const long long h = last_digit(rest, p.oh) * p.sh.divisor - p.top + r * p.dh;
        const long long n = rest;
        const bool inside = h >= 0 && h < p.height.divisor && w >= 0 && w < p.width.divisor;
        columns[item] = inside ? x[n * p.x_n + c * p.x_c + h * p.x_h + w * p.x_w] : narrow<T>(0);
    }
}

// A thread sums V channels of one input pixel over the taps of the patches that hold it, in the order of the
// taps. Neighbouring threads read and write neighbouring channels; images are channels-last. The taps' columns
// are `tap` elements apart, the channels' `channel`.
template <typename T, int V, typename Index>
__device__ inline void fold_item(Index item, const T *columns, T *x, const Patches &p, long long tap,
                                 long long channel) {
    Index rest = item;
    const int c = last_digit(rest, p.channels) * V;
    const long long w = last_digit(rest, p.width) + p.left;
    const long long h = last_digit(rest, p.height) + p.top;
    const long long n = rest;
    Wide<T> sum[V] = {};
    for (int r = 0; r < p.kh.divisor; ++r) {
        const int i = window_at(h - r * p.dh, p.sh, p.oh);
        if (i < 0) continue;
        for (int s = 0; s < p.kw.divisor; ++s) {
            const int j = window_at(w - s * p.dw, p.sw, p.ow);
            if (j < 0) continue;
            const long long row = (n * p.oh.divisor + i) * p.ow.divisor + j;
            const long long column = (r * p.kw.divisor + s) * tap + c * channel;
            const Vector<T, V> part = reinterpret_cast<const Vector<T, V> *>(
                columns + row * p.columns_row + column * p.columns_column)[0];
            for (int v = 0; v < V; ++v) sum[v] += widen(part.at[v]);
        }
    }
    Vector<T, V> total;
    for (int v = 0; v < V; ++v) total.at[v] = narrow<T>(sum[v]);
    reinterpret_cast<Vector<T, V> *>(x)[item] = total;
}

// The adjoint of unfold; see fold_item.
template <typename T, int V, typename Index>
__global__ void fold(long long count, const T *columns, T *x, Patches p) {
    FOR_EACH(Index, item, count) {
        fold_item<T, V>(item, columns, x, p, p.channels.divisor * V, 1);
    }
}

// The adjoint of unfold_classical; see fold_item. The taps of one channel are neighbours in the matrix, so a
// warp reads whole rows of it piece by piece.
template <typename T, typename Index>
__global__ void fold_classical(long long count, const T *columns, T *x, Patches p) {
    FOR_EACH(Index, item, count) {
        fold_item<T, 1>(item, columns, x, p, 1, p.kh.divisor * p.kw.divisor);
    }
}

// A thread adds the bias to V neighbours in memory, in place, and cuts negative sums to 0 if asked; NaN stays.
// `inner` elements in a row share a channel: 1 over channels-last memory, OH*OW over channels-first.
template <typename T, int V, bool RELU, typename Index>
__global__ void add_bias(long long count, T *y, const T *bias, Divider inner, Divider channels) {
    FOR_EACH(Index, item, count) {
        Index rest = item / inner;
        const int k = last_digit(rest, channels) * V;
        Vector<T, V> *place = reinterpret_cast<Vector<T, V> *>(y) + item;
        Vector<T, V> value = *place;
        const Vector<T, V> shift = reinterpret_cast<const Vector<T, V> *>(bias + k)[0];
        for (int v = 0; v < V; ++v) {
            const Wide<T> sum = widen(value.at[v]) + widen(shift.at[v]);
            value.at[v] = narrow<T>(RELU && sum < 0 ? 0 : sum);
        }
        *place = value;
    }
}
