// Winograd's minimal filtering F(m×m, 3×3) at stride 1 (Lavin and Gray, 2015), for channels that fill whole vectors.
//
// Tiles of (m + 2)² pixels are transformed in registers, a batch of tiles at a time; each of the (m + 2)² places is then a
// product of matrices, and the sums are transformed back where bias and ReLU are added. NaN and infinity spread over the
// tile that sees them, so each function returns whether all that it wrote is finite.
#pragma once
#include "convolution.hpp"

template <int M> constexpr int SIDE = M + 2;
template <int M> constexpr int PLACES = SIDE<M> * SIDE<M>;

// One row of a transform and of its adjoint: numbers at distance `s` to numbers at distance `t`.
template <int M, class F> struct Transforms;
template <class F> struct Transforms<4, F> {
    static void input(const F *d, int s, F *o, int t) {  // Bᵀ
        const F a = d[4 * s] - 4 * d[2 * s], b = d[3 * s] - 4 * d[s], c = d[4 * s] - d[2 * s], e = 2 * (d[3 * s] - d[s]);
        o[0] = 4 * d[0] - 5 * d[2 * s] + d[4 * s], o[t] = a + b, o[2 * t] = a - b, o[3 * t] = c + e, o[4 * t] = c - e;
        o[5 * t] = 4 * d[s] - 5 * d[3 * s] + d[5 * s];
    }
    static void output(const F *m, int s, F *o, int t) {  // Aᵀ
        const F a = m[s] + m[2 * s], b = m[s] - m[2 * s], c = m[3 * s] + m[4 * s], e = m[3 * s] - m[4 * s];
        o[0] = m[0] + a + c, o[t] = b + 2 * e, o[2 * t] = a + 4 * c, o[3 * t] = b + 8 * e + m[5 * s];
    }
    static void output_gradient(const F *d, int s, F *o, int t) {  // A
        const F a = d[0] + d[2 * s], b = d[s] + d[3 * s], c = d[0] + 4 * d[2 * s], e = 2 * d[s] + 8 * d[3 * s];
        o[0] = d[0], o[t] = a + b, o[2 * t] = a - b, o[3 * t] = c + e, o[4 * t] = c - e, o[5 * t] = d[3 * s];
    }
    template <class S> static void kernel(const F *g, int s, F *o, int t, S one) {  // G
        const F a = (g[0] + g[2 * s]) * (-one / 6), b = g[s] * (one / 6), c = g[0] * (one / 24) + g[2 * s] * (one / 6), e = g[s] * (one / 12);
        o[0] = g[0] * (one / 4), o[t] = a - b, o[2 * t] = a + b, o[3 * t] = c + e, o[4 * t] = c - e, o[5 * t] = g[2 * s];
    }
    template <class S> static void kernel_gradient(const F *u, int s, F *o, int t, S one) {  // Gᵀ
        const F a = u[s] + u[2 * s], b = u[2 * s] - u[s], c = u[3 * s] + u[4 * s], e = u[3 * s] - u[4 * s];
        o[0] = u[0] * (one / 4) - a * (one / 6) + c * (one / 24), o[t] = b * (one / 6) + e * (one / 12), o[2 * t] = (c - a) * (one / 6) + u[5 * s];
    }
};
template <class F> struct Transforms<2, F> {
    static void input(const F *d, int s, F *o, int t) { o[0] = d[0] - d[2 * s], o[t] = d[s] + d[2 * s], o[2 * t] = d[2 * s] - d[s], o[3 * t] = d[s] - d[3 * s]; }
    static void output(const F *m, int s, F *o, int t) { o[0] = m[0] + m[s] + m[2 * s], o[t] = m[s] - m[2 * s] - m[3 * s]; }
    static void output_gradient(const F *d, int s, F *o, int t) { o[0] = d[0], o[t] = d[0] + d[s], o[2 * t] = d[0] - d[s], o[3 * t] = -d[s]; }
    template <class S> static void kernel(const F *g, int s, F *o, int t, S one) {
        const F a = (g[0] + g[2 * s]) * (one / 2), b = g[s] * (one / 2);
        o[0] = g[0], o[t] = a + b, o[2 * t] = a - b, o[3 * t] = g[2 * s];
    }
    template <class S> static void kernel_gradient(const F *u, int s, F *o, int t, S one) {
        const F a = (u[s] + u[2 * s]) * (one / 2);
        o[0] = u[0] + a, o[t] = (u[s] - u[2 * s]) * (one / 2), o[2 * t] = a + u[3 * s];
    }
};

// Rows and columns of tiles of an image's output.
template <int M> struct TileGrid {
    long high, wide;
    explicit TileGrid(const Shape &g) : high((g.oh + M - 1) / M), wide((g.ow + M - 1) / M) {}
    long count(const Shape &g) const { return g.n * high * wide; }
};

// The distance between two places of a batch of tiles: pages apart, they would compete for the same lines of a cache.
template <class T> static long place_step(long numbers) { return numbers % (4096 / long(sizeof(T))) ? numbers : numbers + WIDTH<T>; }

// A window of side² pixels at (row, column), zeros outside; it is read where it lies if it is all inside.
template <class T> static const T *window(const Image<T> &x, long row, long column, long side, T *copy, long *next_row, long *next_column) {
    if (x.channels_last() && row >= 0 && column >= 0 && row + side <= x.h && column + side <= x.w) {
        *next_row = x.row, *next_column = x.column;
        return x.data + row * x.row + column * x.column;
    }
    *next_row = side * x.c, *next_column = x.c;
    frame(x, row, side, column, side, copy);
    return copy;
}

// Size² pixels of all channels to (m + 2)² places, `step` apart.
template <class T, int M, int SIZE, void (*TRANSFORM)(const Register<T> *, int, Register<T> *, int)>
static inline void transform(const T *from, long row, long column, long c, T *to, long step) {
    constexpr int S = SIDE<M>;
    for (long q = 0; q < c; q += WIDTH<T>) {
        Register<T> pixels[SIZE * SIZE], half[S * SIZE], places[S * S];
        for (int r = 0; r < SIZE; r++)
            for (int s = 0; s < SIZE; s++) pixels[r * SIZE + s] = load(from + r * row + s * column + q);
        for (int s = 0; s < SIZE; s++) TRANSFORM(pixels + s, SIZE, half + s, SIZE);
        for (int r = 0; r < S; r++) TRANSFORM(half + r * SIZE, 1, places + r * S, 1);
        for (int i = 0; i < S * S; i++) store(to + i * step + q, places[i]);
    }
}

// weight (K, C, 3, 3) to (blocks of COLUMNS filters, places, inputs, COLUMNS); turned for the gradient of the input.
template <class T, int M> static void winograd_pack(const Shape &g, const T *weight, bool turned, T *to) {
    constexpr int S = SIDE<M>;
    const long outs = turned ? g.c : g.k, ins = turned ? g.k : g.c;
    for (long o = 0; o < outs; o += COLUMNS<T>)
        for (long i = 0; i < ins; i++) {
            T taps[9][COLUMNS<T>] = {};
            for (long v = 0; v < COLUMNS<T> && o + v < outs; v++) {
                const T *from = weight + (turned ? i * g.c + o + v : (o + v) * g.c + i) * 9;
                for (int q = 0; q < 9; q++) taps[q][v] = from[turned ? 8 - q : q];
            }
            for (long v = 0; v < COLUMNS<T>; v += WIDTH<T>) {
                Register<T> filter[9], half[3 * S], places[S * S];
                for (int q = 0; q < 9; q++) filter[q] = load(taps[q] + v);
                for (int s = 0; s < 3; s++) Transforms<M, Register<T>>::kernel(filter + s, 3, half + s, 3, T(1));
                for (int r = 0; r < S; r++) Transforms<M, Register<T>>::kernel(half + r * 3, 1, places + r * S, 1, T(1));
                for (int q = 0; q < S * S; q++) store(to + ((o / COLUMNS<T> * S * S + q) * ins + i) * COLUMNS<T> + v, places[q]);
            }
        }
}

template <class T, int M> static long winograd_packed_size(long outs, long ins) { return PLACES<M> * round_up(outs, COLUMNS<T>) * ins; }

// Tiles of a batch: as many as stay in a cache of the core, and enough of them to be worth reading all filters again.
template <class T, int M> static long batch(const Shape &g, long caches) {
    const long tile = PLACES<M> * (g.c + g.k) * long(sizeof(T)), filters = PLACES<M> * g.c * g.k * long(sizeof(T));
    const long tiles = std::max(caches * (512L << 10), std::min(filters, caches * (4L << 20))) / tile;
    return std::min(std::max(tiles / TILE_ROWS, 1L) * TILE_ROWS, std::max(1L, TileGrid<M>(g).count(g)));
}

// Of a pass over so many tiles.
template <class T, int M> static long winograd_scratch(const Shape &g, long tiles) {
    tiles = std::min(batch<T, M>(g, 2), tiles);
    return PLACES<M> * (place_step<T>(tiles * g.c) + place_step<T>(tiles * g.k) + std::max(g.c, g.k));
}

// y (N, OH, OW, K) in tiles [first, last).
template <class T, int M>
static long winograd_forward(const Shape &g, const T *x, const Layout &x_at, const T *packed, const T *bias, Epilogue mode, T *y, long first, long last, T *scratch) {
    constexpr int S = SIDE<M>;
    const long c = g.c, k = g.k, most = std::min(batch<T, M>(g, 1), last - first);
    const TileGrid<M> grid(g);
    const long inputs = place_step<T>(most * c), outputs = place_step<T>(most * k), zero = 0;
    T *V = scratch, *sums = V + S * S * inputs, *copy = sums + S * S * outputs;
    Register<T> finite = {};
    for (long begin = first; begin < last; begin += most) {
        const long count = std::min(most, last - begin);
        const auto at = [&](long t) { t += begin; return std::pair<long, std::pair<long, long>>(t / (grid.high * grid.wide), {t / grid.wide % grid.high, t % grid.wide}); };
        for (long t = 0; t < count; t++) {
            const auto [n, place] = at(t);
            long row, column;
            const T *from = window(Image<T>(x + n * x_at.n, c, g.h, g.w, x_at), M * place.first - g.top, M * place.second - g.left, long(S), copy, &row, &column);
            transform<T, M, S, Transforms<M, Register<T>>::input>(from, row, column, c, V + t * c, inputs);
        }
        const Product<T> product{c, 1, &zero, 1, c, COLUMNS<T>, 0};
        for (long q = 0; q < S * S; q++)
            for (long o = 0; o < k; o += COLUMNS<T>)
                multiply(product, count, V + q * inputs, packed + (o / COLUMNS<T> * S * S + q) * c * COLUMNS<T>, sums + q * outputs + o, k,
                         std::min(long(COLUMNS<T>), k - o), (const T *)nullptr, SET);
        for (long t = 0; t < count; t++) {
            const auto [n, place] = at(t);
            const long high = std::min(long(M), g.oh - M * place.first), wide = std::min(long(M), g.ow - M * place.second);
            T *to = y + ((n * g.oh + M * place.first) * g.ow + M * place.second) * k;
            for (long q = 0; q < k; q += WIDTH<T>) {
                Register<T> places[S * S], half[M * S], pixels[M * M];
                for (int i = 0; i < S * S; i++) places[i] = load(sums + i * outputs + t * k + q);
                for (int s = 0; s < S; s++) Transforms<M, Register<T>>::output(places + s, S, half + s, S);
                for (int r = 0; r < M; r++) Transforms<M, Register<T>>::output(half + r * S, 1, pixels + r * M, 1);
                const Register<T> b = mode >= BIAS ? load(bias + q) : Register<T>{};
                for (long r = 0; r < high; r++)
                    for (long s = 0; s < wide; s++) {
                        const Register<T> sum = pixels[r * M + s] + b;
                        finite += sum - sum;  // NaN of NaN and infinity
                        store(to + (r * g.ow + s) * k + q, mode == BIAS_RELU ? relu<T>(sum) : sum);
                    }
            }
        }
    }
    for (int i = 0; i < WIDTH<T>; i++)
        if (finite[i] != 0) return 0;
    return 1;
}

// The gradients (places, C, K) of the transformed weight from tiles [first, last) are added to `sums`.
template <class T, int M>
static void winograd_grad_weight(const Shape &g, const T *x, const Layout &x_at, const T *dy, const Layout &dy_at, T *sums, long first, long last, T *scratch) {
    constexpr int S = SIDE<M>;
    const long c = g.c, k = g.k, most = std::min(batch<T, M>(g, 2), last - first);
    const TileGrid<M> grid(g);
    const long inputs = place_step<T>(most * c), outputs = place_step<T>(most * k), zero = 0;
    T *V = scratch, *gradients = V + S * S * inputs, *copy = gradients + S * S * outputs;
    for (long begin = first; begin < last; begin += most) {
        const long count = std::min(most, last - begin);
        for (long t = 0; t < count; t++) {
            const long n = (begin + t) / (grid.high * grid.wide), i = (begin + t) / grid.wide % grid.high, j = (begin + t) % grid.wide;
            long row, column;
            const T *from = window(Image<T>(x + n * x_at.n, c, g.h, g.w, x_at), M * i - g.top, M * j - g.left, long(S), copy, &row, &column);
            transform<T, M, S, Transforms<M, Register<T>>::input>(from, row, column, c, V + t * c, inputs);
            from = window(Image<T>(dy + n * dy_at.n, k, g.oh, g.ow, dy_at), M * i, M * j, long(M), copy, &row, &column);
            transform<T, M, M, Transforms<M, Register<T>>::output_gradient>(from, row, column, k, gradients + t * k, outputs);
        }
        const Product<T> product{1, c, &zero, 1, count, k, 0};
        for (long q = 0; q < S * S; q++)
            for (long o = 0; o < k; o += COLUMNS<T>)
                multiply(product, c, V + q * inputs, gradients + q * outputs + o, sums + q * c * k + o, k, std::min(long(COLUMNS<T>), k - o), (const T *)nullptr, ADD);
    }
}

// Those gradients to weight (K, C, 3, 3).
template <class T, int M> static long winograd_unpack(const Shape &g, const T *sums, T *weight) {
    constexpr int S = SIDE<M>;
    Register<T> finite = {};
    for (long i = 0; i < g.c; i++)
        for (long o = 0; o < g.k; o += WIDTH<T>) {
            Register<T> places[S * S], half[3 * S], taps[9];
            for (int q = 0; q < S * S; q++) places[q] = load(sums + (q * g.c + i) * g.k + o);
            for (int s = 0; s < S; s++) Transforms<M, Register<T>>::kernel_gradient(places + s, S, half + s, S, T(1));
            for (int r = 0; r < 3; r++) Transforms<M, Register<T>>::kernel_gradient(half + r * S, 1, taps + r * 3, 1, T(1));
            for (int q = 0; q < 9; q++) {
                finite += taps[q] - taps[q];
                for (int v = 0; v < WIDTH<T>; v++) weight[((o + v) * g.c + i) * 9 + q] = taps[q][v];
            }
        }
    for (int i = 0; i < WIDTH<T>; i++)
        if (finite[i] != 0) return 0;
    return 1;
}
