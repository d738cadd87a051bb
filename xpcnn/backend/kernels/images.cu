// Bytes of images to floating numbers, flipped and moved by whole pixels on the way.
#include "common.cuh"

// a * b and a - b, each rounded on its own, so that the results have the bits of two separate operations.
#ifdef __CUDA_ARCH__
__device__ inline float product(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double product(double a, double b) { return __dmul_rn(a, b); }
#else
template <typename A> __device__ inline A product(A a, A b) { return a * b; }
#endif

// What a moved image shows: row i is row top + down * i of the image, column j its column left + right * j.
struct Move {
    int top, down, left, right;
};

// A thread makes one number: x * scale - shift, or that of 0 where a move shows what is beside the image.
// Images are C-contiguous (N, C, H, W). `moves` may be absent (null). `constants` are the scales and then the
// shifts of `kinds` channels, or of all where `kinds` is 1.
template <typename T, typename Index>
__global__ void scale_images(long long count, const unsigned char *x, T *y, Divider channels, Divider height,
                             Divider width, const Move *moves, const T *constants, long long kinds) {
    FOR_EACH(Index, item, count) {
        Index rest = item;
        const long long column = last_digit(rest, width);
        const long long row = last_digit(rest, height);
        const int channel = last_digit(rest, channels);
        const long long kind = kinds == 1 ? 0 : channel;
        long long from = item;
        bool inside = true;
        if (moves) {
            const Move move = moves[rest];
            const long long from_row = move.top + move.down * row;
            const long long from_column = move.left + move.right * column;
            inside = from_row >= 0 && from_row < height.divisor &&
                     from_column >= 0 && from_column < width.divisor;
            from += (from_row - row) * width.divisor + from_column - column;
        }
        const Wide<T> byte = inside ? x[from] : 0;
        const T scaled = narrow<T>(product(byte, widen(constants[kind])));
        y[item] = narrow<T>(widen(scaled) - widen(constants[kinds + kind]));
    }
}
