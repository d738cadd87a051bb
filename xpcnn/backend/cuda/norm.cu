// Batch normalisation: statistics of each channel, the normalisation itself, and its gradients.
//
// An array is seen as (n, c, p), images by channels by pixels, with a stride for each, so that one kernel
// serves both memory orders. The values of a channel are cut into interleaved chunks, a work item for each:
// chunk k has the values k, k + chunks, k + 2 chunks, ... Where channels are adjacent in memory, neighbouring
// threads take neighbouring channels; elsewhere neighbouring chunks, hence neighbouring pixels.
//
// Sums are trees whose shape depends on the array's shape alone: the same bits in every run.

#include "common.cuh"

struct Strides {
    long long n, c, p;
};

// How the values of all channels are shared among work items. `values` are those of one channel, images *
// pixels; from one value of a chunk to the next it is step_n images and step_p pixels.
struct Shares {
    long long channels, pixels, values, chunks, step_n, step_p, channels_adjacent;
};

// What one work item has, and where it is on its way through that.
struct Chunk {
    unsigned number, channel;
    long long n, p;

    __device__ Chunk(unsigned item, const Shares &shares) {
        const unsigned channels = static_cast<unsigned>(shares.channels);
        const unsigned chunks = static_cast<unsigned>(shares.chunks);
        number = shares.channels_adjacent ? item / channels : item % chunks;
        channel = shares.channels_adjacent ? item % channels : item / chunks;
        n = number / static_cast<unsigned>(shares.pixels);
        p = number % static_cast<unsigned>(shares.pixels);
    }

    // Go on to the next value. True where its pixel is not simply step_p further: it is in another image.
    __device__ bool wraps(const Shares &shares) {
        p += shares.step_p;
        if (p < shares.pixels) return false;
        p -= shares.pixels;
        return true;
    }
};

// Goes from value to value of a chunk in one array, by additions alone.
struct Cursor {
    long long at, step, step_and_wrap;

    __device__ Cursor(const Strides &strides, const Chunk &chunk, const Shares &shares)
        : at(chunk.n * strides.n + chunk.channel * strides.c + chunk.p * strides.p),
          step(shares.step_n * strides.n + shares.step_p * strides.p),
          step_and_wrap(step + strides.n - shares.pixels * strides.p) {}

    __device__ void go_on(bool wraps) { at += wraps ? step_and_wrap : step; }
};

// Count, mean and sum of squared deviations of some values. Values are added one by one (Welford 1962) and
// partial results merged (Chan, Golub and LeVeque 1979): no difference of large sums. Values and means are
// taken from the channel's first value on, so that a mean far from 0 costs no digits either.
template <typename A> struct Moments {
    A count, mean, squares;

    __device__ Moments() : count(0), mean(0), squares(0) {}

    __device__ void add(A value) {
        count += 1;
        const A delta = value - mean;
        mean += delta / count;
        squares += delta * (value - mean);
    }

    __device__ void merge(const Moments &other) {
        if (other.count == 0) return;
        const A delta = other.mean - mean;
        const A share = other.count / (count + other.count);
        mean += delta * share;
        squares += other.squares + delta * delta * (count * share);
        count += other.count;
    }

    // Partial results are (chunks, 3, channels).
    __device__ void store(A *results, long long chunk, long long channels, long long channel) const {
        A *const to = results + chunk * 3 * channels + channel;
        to[0] = count;
        to[channels] = mean;
        to[2 * channels] = squares;
    }

    __device__ void merge_stored(const A *results, long long chunk, long long channels, long long channel) {
        const A *const from = results + chunk * 3 * channels + channel;
        Moments other;
        other.count = from[0];
        other.mean = from[channels];
        other.squares = from[2 * channels];
        merge(other);
    }
};

template <typename T>
__global__ void moments(long long count, const T *x, Strides x_strides, Shares shares, Wide<T> *partial) {
    FOR_EACH(unsigned, item, count) {
        Chunk chunk(item, shares);
        Cursor from(x_strides, chunk, shares);
        const Wide<T> first = widen(x[chunk.channel * x_strides.c]);
        Moments<Wide<T>> found;
        for (long long value = chunk.number; value < shares.values; value += shares.chunks) {
            found.add(widen(x[from.at]) - first);
            from.go_on(chunk.wraps(shares));
        }
        found.store(partial, chunk.number, shares.channels, chunk.channel);
    }
}

// Merge `chunks` partial results into fewer: group g of them takes every groups-th from g on, in order.
template <typename T>
__global__ void merge_moments(long long count, const Wide<T> *partial, long long chunks, long long groups,
                              long long channels, Wide<T> *merged) {
    FOR_EACH(unsigned, item, count) {
        const unsigned channel = item % static_cast<unsigned>(channels);
        const unsigned group = item / static_cast<unsigned>(channels);
        Moments<Wide<T>> found;
        for (long long chunk = group; chunk < chunks; chunk += groups)
            found.merge_stored(partial, chunk, channels, channel);
        found.store(merged, group, channels, channel);
    }
}

// The last merge, and what is derived from it. The running statistics may be absent (null).
template <typename T>
__global__ void finish_moments(long long channels, const T *x, Strides x_strides, const Wide<T> *partial,
                               long long chunks, double unbiased, double momentum, double eps,
                               const T *running_mean, const T *running_var, Wide<T> *mean,
                               Wide<T> *inverse_std, T *new_mean, T *new_var) {
    typedef Wide<T> A;
    const A keep = static_cast<A>(1 - momentum), take = static_cast<A>(momentum);
    FOR_EACH(unsigned, channel, channels) {
        Moments<A> found;
        for (long long chunk = 0; chunk < chunks; ++chunk)
            found.merge_stored(partial, chunk, channels, channel);
        const A var = found.squares / found.count, unbiased_var = var * static_cast<A>(unbiased);
        const A batch_mean = widen(x[channel * x_strides.c]) + found.mean;
        mean[channel] = batch_mean;
        inverse_std[channel] = 1 / sqrt(var + static_cast<A>(eps));
        if (running_mean)
            new_mean[channel] = narrow<T>(keep * widen(running_mean[channel]) + take * batch_mean);
        if (running_var)
            new_var[channel] = narrow<T>(keep * widen(running_var[channel]) + take * unbiased_var);
    }
}

// mean and inverse_std from running statistics.
template <typename T>
__global__ void fixed_moments(long long channels, const T *running_mean, const T *running_var, double eps,
                              Wide<T> *mean, Wide<T> *inverse_std) {
    FOR_EACH(unsigned, channel, channels) {
        mean[channel] = widen(running_mean[channel]);
        inverse_std[channel] = 1 / sqrt(widen(running_var[channel]) + static_cast<Wide<T>>(eps));
    }
}

// y = (x - mean) * inverse_std * weight + bias. The weight and bias may be absent (null).
template <typename T>
__global__ void normalise(long long count, const T *x, Strides x_strides, T *y, Strides y_strides,
                          Shares shares, const Wide<T> *mean, const Wide<T> *inverse_std, const T *weight,
                          const T *bias) {
    typedef Wide<T> A;
    FOR_EACH(unsigned, item, count) {
        Chunk chunk(item, shares);
        Cursor from(x_strides, chunk, shares), to(y_strides, chunk, shares);
        const A centre = mean[chunk.channel];
        const A deviation = inverse_std[chunk.channel];
        const A scale = weight ? deviation * widen(weight[chunk.channel]) : deviation;
        const A shift = bias ? widen(bias[chunk.channel]) : 0;
        for (long long value = chunk.number; value < shares.values; value += shares.chunks) {
            y[to.at] = narrow<T>((widen(x[from.at]) - centre) * scale + shift);
            const bool wraps = chunk.wraps(shares);
            from.go_on(wraps);
            to.go_on(wraps);
        }
    }
}

// The sums of dy, and of dy times the normalised x. Partial results are (chunks, 2, channels).
template <typename T>
__global__ void gradient_sums(long long count, const T *dy, Strides dy_strides, const T *x, Strides x_strides,
                              Shares shares, const Wide<T> *mean, const Wide<T> *inverse_std,
                              Wide<T> *partial) {
    typedef Wide<T> A;
    FOR_EACH(unsigned, item, count) {
        Chunk chunk(item, shares);
        Cursor of_dy(dy_strides, chunk, shares), of_x(x_strides, chunk, shares);
        const A centre = mean[chunk.channel], scale = inverse_std[chunk.channel];
        A sum = 0, sum_normalised = 0;
        for (long long value = chunk.number; value < shares.values; value += shares.chunks) {
            const A gradient = widen(dy[of_dy.at]);
            sum += gradient;
            sum_normalised += gradient * ((widen(x[of_x.at]) - centre) * scale);
            const bool wraps = chunk.wraps(shares);
            of_dy.go_on(wraps);
            of_x.go_on(wraps);
        }
        A *const to = partial + chunk.number * 2 * shares.channels + chunk.channel;
        to[0] = sum;
        to[shares.channels] = sum_normalised;
    }
}

// Add rows of numbers into fewer: group g of them takes every groups-th from g on, in order.
template <typename T>
__global__ void add_rows(long long count, const Wide<T> *rows, long long height, long long groups,
                         long long width, Wide<T> *sums) {
    FOR_EACH(unsigned, item, count) {
        const unsigned column = item % static_cast<unsigned>(width);
        Wide<T> sum = 0;
        for (long long row = item / static_cast<unsigned>(width); row < height; row += groups)
            sum += rows[row * width + column];
        sums[item] = sum;
    }
}

// dx from dy. `sums` (2, channels) are those of gradient_sums, or null where the mean and the variance are
// constants.
template <typename T>
__global__ void gradient_input(long long count, const T *dy, Strides dy_strides, const T *x,
                               Strides x_strides, T *dx, Strides dx_strides, Shares shares,
                               const Wide<T> *mean, const Wide<T> *inverse_std, const T *weight,
                               const Wide<T> *sums) {
    typedef Wide<T> A;
    FOR_EACH(unsigned, item, count) {
        Chunk chunk(item, shares);
        Cursor of_dy(dy_strides, chunk, shares), of_x(x_strides, chunk, shares);
        Cursor to(dx_strides, chunk, shares);
        const unsigned c = chunk.channel;
        const A values = static_cast<A>(shares.values);
        const A centre = mean[c], deviation = inverse_std[c];
        const A scale = weight ? deviation * widen(weight[c]) : deviation;
        const A offset = sums ? sums[c] / values : 0;
        const A slope = sums ? sums[shares.channels + c] / values : 0;
        for (long long value = chunk.number; value < shares.values; value += shares.chunks) {
            A gradient = widen(dy[of_dy.at]);
            if (sums) gradient -= (widen(x[of_x.at]) - centre) * deviation * slope + offset;
            dx[to.at] = narrow<T>(gradient * scale);
            const bool wraps = chunk.wraps(shares);
            of_dy.go_on(wraps);
            of_x.go_on(wraps);
            to.go_on(wraps);
        }
    }
}
