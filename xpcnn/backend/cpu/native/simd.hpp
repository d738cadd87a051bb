// Vectors of the width this version is compiled for, and the register-tiled product that convolutions are made of.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int BYTES = 64, TILE_ROWS = 14;  // 28 sums of 32 registers
#elif defined(__AVX2__)
constexpr int BYTES = 32, TILE_ROWS = 6;  // 12 of 16
#elif defined(__aarch64__)
constexpr int BYTES = 16, TILE_ROWS = 12;  // 24 of 32
#else
constexpr int BYTES = 16, TILE_ROWS = 6;  // 12 of 16
#endif

// `LANES` numbers side by side; in memory they need no alignment.
template <class T, int LANES> struct Simd {
    typedef T Register __attribute__((vector_size(LANES * sizeof(T))));
    typedef T Memory __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));
    static constexpr int lanes = LANES;
    static Register load(const T *p) { return *(const Memory *)p; }
    static void store(T *p, Register v) { *(Memory *)p = v; }
};
template <class T> constexpr int WIDTH = BYTES / int(sizeof(T));
template <class T> constexpr int COLUMNS = 2 * WIDTH<T>;  // of a tile: two vectors side by side
template <class T> using Register = typename Simd<T, WIDTH<T>>::Register;

template <class T> static inline Register<T> load(const T *p) { return Simd<T, WIDTH<T>>::load(p); }
template <class T> static inline void store(T *p, Register<T> v) { Simd<T, WIDTH<T>>::store(p, v); }
template <class T> static inline Register<T> relu(Register<T> v) { return v < T(0) ? Register<T>{} : v; }  // NaN stays NaN

// f(lanes, channel) over all channels: in whole vectors, then in half ones, and so on down to single numbers.
template <class T, int LANES = WIDTH<T>, class F> static inline void over_channels(long c, F f, long first = 0) {
    for (; first + LANES <= c; first += LANES) f(Simd<T, LANES>{}, first);
    if constexpr (LANES > 1) over_channels<T, LANES / 2>(c, f, first);
}

static inline long round_up(long a, long b) { return (a + b - 1) / b * b; }

enum Epilogue { SET, ADD, BIAS, BIAS_RELU };

// The sums of one tile: over segments s and positions l, of A[row · a_row + offsets[s] + l · a_step] times the row
// B[s · b_segment + l · b_step] of COLUMNS numbers. A convolution has a segment for each tap, or for each kernel row.
template <class T> struct Product {
    long a_row, a_step;
    const long *offsets;
    long segments, length;
    long b_step, b_segment;
};

template <class T, int ROWS, int VECTORS>
static void tile(const Product<T> &g, const T *A, const T *B, T *C, long c_row, long columns, const T *bias, Epilogue mode) {
    constexpr int W = WIDTH<T>;
    Register<T> sum[ROWS][VECTORS];
    for (int p = 0; p < ROWS; p++)
        for (int v = 0; v < VECTORS; v++) sum[p][v] = mode >= BIAS ? load(bias + v * W) : Register<T>{};
    const long a_row = g.a_row, a_step = g.a_step, b_step = g.b_step;
    for (long s = 0; s < g.segments; s++) {
        const T *a = A + g.offsets[s], *b = B + s * g.b_segment;
        for (long l = 0; l < g.length; l++, a += a_step, b += b_step) {
            Register<T> row[VECTORS];
            for (int v = 0; v < VECTORS; v++) row[v] = load(b + v * W);
            for (int p = 0; p < ROWS; p++)
                for (int v = 0; v < VECTORS; v++) sum[p][v] += a[p * a_row] * row[v];
        }
    }
    for (int p = 0; p < ROWS; p++, C += c_row) {
        if (mode == BIAS_RELU)
            for (int v = 0; v < VECTORS; v++) sum[p][v] = relu<T>(sum[p][v]);
        if (columns == VECTORS * W) {
            for (int v = 0; v < VECTORS; v++) store(C + v * W, mode == ADD ? load(C + v * W) + sum[p][v] : sum[p][v]);
        } else {
            T whole[VECTORS * W];
            for (int v = 0; v < VECTORS; v++) store(whole + v * W, sum[p][v]);
            for (long i = 0; i < columns; i++) C[i] = mode == ADD ? C[i] + whole[i] : whole[i];
        }
    }
}

template <class T> using Tile = void (*)(const Product<T> &, const T *, const T *, T *, long, long, const T *, Epilogue);
template <class T, int VECTORS, int... ROWS> struct Tiles { Tile<T> at[sizeof...(ROWS) + 1] = {nullptr, tile<T, ROWS, VECTORS>...}; };
#if defined(__AVX512F__)
template <class T, int V> using TileTable = Tiles<T, V, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>;
#elif defined(__aarch64__)
template <class T, int V> using TileTable = Tiles<T, V, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>;
#else
template <class T, int V> using TileTable = Tiles<T, V, 1, 2, 3, 4, 5, 6>;
#endif

// `rows` rows of C, in tiles as even as can be; each number is the same sum, whatever tile it is in.
template <class T>
static void multiply(const Product<T> &g, long rows, const T *A, const T *B, T *C, long c_row, long columns, const T *bias, Epilogue mode) {
    static const TileTable<T, 1> narrow;
    static const TileTable<T, 2> wide;
    const Tile<T> *tiles = columns <= WIDTH<T> ? narrow.at : wide.at;
    const long count = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (long i = 0, start = 0; i < count; i++) {
        const long stop = (i + 1) * rows / count;
        tiles[stop - start](g, A + start * g.a_row, B, C + start * c_row, c_row, columns, bias, mode);
        start = stop;
    }
}
