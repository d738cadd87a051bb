// Dropout, with random numbers that are a function of a key and of an element's place.
#include "common.cuh"

struct PhiloxKey {
    unsigned low, high;
};

// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011): four
// evenly drawn 32-bit words for each counter, in the counter's place.
__device__ inline void philox(unsigned (&words)[4], PhiloxKey key) {
    for (int round = 0; round < 10; ++round) {
        const unsigned long long even = 0xD2511F53ull * words[0];
        const unsigned long long odd = 0xCD9E8D57ull * words[2];
        words[0] = static_cast<unsigned>(odd >> 32) ^ words[1] ^ key.low;
        words[1] = static_cast<unsigned>(odd);
        words[2] = static_cast<unsigned>(even >> 32) ^ words[3] ^ key.high;
        words[3] = static_cast<unsigned>(even);
        key.low += 0x9E3779B9u;
        key.high += 0xBB67AE85u;
    }
}

// The axes of an array from the outermost in memory to the innermost. Strides count elements: `place` those
// of the C-contiguous array of that shape, `x` those of x.
struct Axes {
    Divider second, third, fourth;
    long long place[4], x[4];
};

// A thread keeps and scales one element if the word drawn for it is at least `least`, and drops it otherwise.
// The counter is the element's place in C order: the mask depends on neither the memory order nor the grid.
template <typename T, typename Index>
__global__ void drop(long long count, const T *x, T *y, T *mask, Axes axes, long long least, double scale,
                     long long seed) {
    const PhiloxKey key = {static_cast<unsigned>(seed), static_cast<unsigned>(seed >> 32)};
    const T kept = narrow<T>(static_cast<Wide<T>>(scale)), dropped = narrow<T>(0);
    FOR_EACH(Index, item, count) {
        Index rest = item;
        const long long fourth = last_digit(rest, axes.fourth);
        const long long third = last_digit(rest, axes.third);
        const long long second = last_digit(rest, axes.second);
        const long long first = rest;
        const long long place = first * axes.place[0] + second * axes.place[1] + third * axes.place[2] +
                                fourth * axes.place[3];
        const long long from = first * axes.x[0] + second * axes.x[1] + third * axes.x[2] +
                               fourth * axes.x[3];
        unsigned words[4] = {static_cast<unsigned>(place), static_cast<unsigned>(place >> 32), 0, 0};
        philox(words, key);
        const T factor = words[0] >= least ? kept : dropped;
        mask[item] = factor;
        y[item] = narrow<T>(widen(x[from]) * widen(factor));
    }
}
