// Optimisers: one launch updates every parameter. Data, gradients and state are float or double.
#include "common.cuh"

// One parameter's update. A gradient that is not C-contiguous is (rest, axes[0], axes[1], axes[2]) with these
// strides, in elements. `options` are the rule's constants, which the wrapper has prepared.
struct Update {
    long long size, first_tile, contiguous, axes[3], strides[4];
    double options[8];
};

// Its arrays, one row of the table of pointers. Absent state is null.
template <typename A> struct Arrays {
    const A *data, *gradient;
    A *updated, *first, *second;
};

// Each rule changes data and state as the portable update does, step by step, and in the same order.

template <typename A> __device__ inline A with_decay(A gradient, A data, A decay) {
    return decay != 0 ? gradient + decay * data : gradient;
}

template <typename A> struct Sgd {
    A lr, decay, momentum;
    bool nesterov;

    __device__ Sgd(const double (&o)[8])
        : lr(static_cast<A>(o[0])), decay(static_cast<A>(o[1])), momentum(static_cast<A>(o[2])),
          nesterov(o[3] != 0) {}

    __device__ void operator()(A &data, A gradient, A &velocity, A &) const {
        A change = with_decay(gradient, data, decay);
        if (momentum != 0) {
            velocity = velocity * momentum + change;
            change = nesterov ? change + momentum * velocity : velocity;
        }
        data -= lr * change;
    }
};

template <typename A> struct AdaGrad {
    A lr, decay, eps;

    __device__ AdaGrad(const double (&o)[8])
        : lr(static_cast<A>(o[0])), decay(static_cast<A>(o[1])), eps(static_cast<A>(o[2])) {}

    __device__ void operator()(A &data, A gradient, A &squares, A &) const {
        gradient = with_decay(gradient, data, decay);
        squares += gradient * gradient;
        data -= gradient / (sqrt(squares) + eps) * lr;
    }
};

template <typename A> struct RmsProp {
    A lr, decay, eps, keep, take, momentum;

    __device__ RmsProp(const double (&o)[8])
        : lr(static_cast<A>(o[0])), decay(static_cast<A>(o[1])), eps(static_cast<A>(o[2])),
          keep(static_cast<A>(o[3])), take(static_cast<A>(o[4])), momentum(static_cast<A>(o[5])) {}

    __device__ void operator()(A &data, A gradient, A &squares, A &velocity) const {
        gradient = with_decay(gradient, data, decay);
        squares = squares * keep + gradient * gradient * take;
        A change = gradient / (sqrt(squares) + eps);
        if (momentum != 0) change = velocity = velocity * momentum + change;
        data -= change * lr;
    }
};

// `lr` and `root` hold the corrections of this step; AdamW shrinks the data first.
template <typename A> struct Adam {
    A lr, decay, eps, take1, keep2, take2, root, shrink;

    __device__ Adam(const double (&o)[8])
        : lr(static_cast<A>(o[0])), decay(static_cast<A>(o[1])), eps(static_cast<A>(o[2])),
          take1(static_cast<A>(o[3])), keep2(static_cast<A>(o[4])), take2(static_cast<A>(o[5])),
          root(static_cast<A>(o[6])), shrink(static_cast<A>(o[7])) {}

    __device__ void operator()(A &data, A gradient, A &mean, A &squares) const {
        data *= shrink;
        gradient = with_decay(gradient, data, decay);
        mean += (gradient - mean) * take1;
        squares = squares * keep2 + gradient * gradient * take2;
        data -= mean / (sqrt(squares) / root + eps) * lr;
    }
};

constexpr unsigned LANES = 256;  // threads that share a tile
constexpr unsigned TILE = 1024;  // elements of one parameter that they update

// The parameter that a tile belongs to: the last that begins there or before. Empty ones have no tile.
__device__ inline long long owner(const Update *updates, long long number, long long tile) {
    long long low = 0, high = number;
    while (high - low > 1) {
        const long long middle = (low + high) / 2;
        if (updates[middle].first_tile <= tile) low = middle;
        else high = middle;
    }
    return low;
}

__device__ inline long long gradient_place(const Update &update, unsigned place) {
    if (update.contiguous) return place;
    long long found = 0;
    for (int axis = 2; axis >= 0; --axis) {
        const unsigned size = static_cast<unsigned>(update.axes[axis]);
        found += place % size * update.strides[axis + 1];
        place /= size;
    }
    return found + place * update.strides[0];
}

// Neighbouring threads take neighbouring elements of one parameter, whatever the sizes of the others.
template <typename A, template <typename> class Rule>
__global__ void update_all(long long count, const Arrays<A> *arrays, const Update *updates,
                           long long number) {
    FOR_EACH(unsigned, item, count) {
        const long long tile = item / LANES;
        const long long index = owner(updates, number, tile);
        const Update &update = updates[index];
        const Arrays<A> &of = arrays[index];
        const Rule<A> rule(update.options);
        const long long begin = (tile - update.first_tile) * TILE + item % LANES;
        for (long long place = begin; place < begin + TILE && place < update.size; place += LANES) {
            const long long from = gradient_place(update, static_cast<unsigned>(place));
            A data = of.data[place];
            A first = of.first ? of.first[place] : 0;
            A second = of.second ? of.second[place] : 0;
            rule(data, of.gradient[from], first, second);
            if (of.first) of.first[place] = first;
            if (of.second) of.second[place] = second;
            of.updated[place] = data;
        }
    }
}
