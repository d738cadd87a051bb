// Convolution over channels-last memory: forward, the gradient of the input and that of the weight.
//
// All three are sums of products over taps. Forward and the gradient of the input are one function, `correlate`, which
// sees a source image through a list of taps; at a stride, the gradient of the input is one such pass for each phase of
// its pixels. The part of the source that a strip of output rows sees is copied with zeros around it into a frame.
#pragma once
#include "simd.hpp"

struct Shape { long n, c, h, w, k, kh, kw, oh, ow, sh, sw, top, left, dh, dw, groups; };

constexpr long FRAME_BYTES = 32 << 10;  // of a frame: about the nearest cache

// What a grid of output pixels sees. Pixel (i, j) sees, by tap (r, s), the source at
// (row + i · row_step + r · tap_height, column + j · column_step + s · tap_width).
struct View {
    long rows, columns, row, column, row_step, column_step, taps_high, taps_wide, tap_height, tap_width;
    long seen_rows(long count) const { return count < 1 ? 0 : (count - 1) * row_step + (taps_high - 1) * tap_height + 1; }
    long seen_columns() const { return (columns - 1) * column_step + (taps_wide - 1) * tap_width + 1; }
};

// Images (N, C, H, W) in memory of any order, by the distances between neighbours along each axis.
struct Layout { long n, c, h, w; };

// One image of such, or of a gradient.
template <class T> struct Image {
    const T *data;
    long c, h, w, channel, row, column;
    Image(const T *data, long c, long h, long w, const Layout &at) : data(data), c(c), h(h), w(w), channel(at.c), row(at.h), column(at.w) {}
    bool channels_last() const { return channel == 1 || c == 1; }
};

// Copy rows [row, row + rows) and columns [column, column + columns) of an image, zeros where it has none, channels last.
template <class T> static void frame(const Image<T> &x, long row, long rows, long column, long columns, T *to) {
    const long c = x.c, first = std::max(column, 0L), before = std::min(std::max(-column, 0L), columns);
    const long inside = std::max(0L, std::min(column + columns, x.w) - first), after = columns - before - inside;
    for (long i = row; i < row + rows; i++, to += columns * c) {
        if (i < 0 || i >= x.h) { std::fill(to, to + columns * c, T(0)); continue; }
        const T *from = x.data + i * x.row + first * x.column;
        T *at = to + before * c;
        std::fill(to, at, T(0));
        if (x.channels_last() && x.column == c) std::memcpy(at, from, sizeof(T) * inside * c);
        else if (x.channels_last())
            for (long j = 0; j < inside; j++) std::copy_n(from + j * x.column, c, at + j * c);
        else
            for (long q = 0; q < c; q++)
                for (long j = 0; j < inside; j++) at[j * c + q] = from[q * x.channel + j * x.column];
        std::fill(at + inside * c, at + (inside + after) * c, T(0));
    }
}

// Whether an image can be read where it lies: nothing is seen outside, and the channels of a pixel are side by side.
template <class T> static bool fits(const View &v, const Image<T> &x) {
    return x.channels_last() && v.row >= 0 && v.column >= 0 && v.row + v.seen_rows(v.rows) <= x.h && v.column + v.seen_columns() <= x.w;
}

// Output rows whose frame fits the nearest cache; at least a few, as neighbouring strips copy the same rows.
template <class T> static long strip_rows(const View &v, long c) {
    const long row = std::max(1L, v.seen_columns() * c), least = std::max(1L, (v.taps_high - 1) * v.tap_height);
    return std::max({1L, std::min(4L, v.rows), (FRAME_BYTES / long(sizeof(T)) / row - least) / v.row_step});
}

template <class T> static long frame_size(const View &v, long c) {
    return v.seen_rows(std::min(strip_rows<T>(v, c), v.rows)) * v.seen_columns() * c;
}

// The numbers of a packed weight of `outs` filters for each of `groups`.
template <class T> static long packed_size(long outs, long taps, long ins, long groups) {
    return groups * round_up(outs, COLUMNS<T>) * taps * ins;
}

// Where a view reads its source: in place, or from frames of it, some output rows at a time.
template <class T> struct Source {
    const View &v;
    const Image<T> &x;
    T *scratch;
    bool framed;
    long column, row, strip;  // distances between pixels and between rows; output rows at a time
    Source(const View &v, const Image<T> &x, T *scratch)
        : v(v), x(x), scratch(scratch), framed(!fits(v, x)), column(framed ? x.c : x.column), row(framed ? v.seen_columns() * x.c : x.row),
          strip(framed ? strip_rows<T>(v, x.c) : v.rows) {}
    // What the output rows [first, last) see.
    const T *read(long first, long last) const {
        const long at = v.row + first * v.row_step;
        if (!framed) return x.data + at * x.row + v.column * x.column;
        frame(x, at, v.seen_rows(last - first), v.column, v.seen_columns(), scratch);
        return scratch;
    }
};

constexpr long MOST_TAPS = 1024;

// y[pixel · (y_row, y_column) + filter], the sums over the taps of an image (H, W, C) with `packed` filters
// (groups, blocks of COLUMNS filters, taps, C / groups).
template <class T>
static void correlate(const View &v, const Image<T> &x, const T *packed, long k, long groups, const T *bias, Epilogue mode, T *y, long y_row, long y_column,
                      T *scratch) {
    const long c = x.c, ins = c / groups, outs = k / groups, taps = v.taps_high * v.taps_wide;
    const Source<T> source(v, x, scratch);
    const long column = source.column, row = source.row;
    const bool whole_rows = groups == 1 && v.tap_width == 1 && column == c;  // the taps of a kernel row are side by side
    long offsets[MOST_TAPS];
    Product<T> product{v.column_step * column, 1, offsets, whole_rows ? v.taps_high : taps, whole_rows ? v.taps_wide * ins : ins, COLUMNS<T>, 0};
    product.b_segment = product.length * COLUMNS<T>;
    if (whole_rows)
        for (long r = 0; r < v.taps_high; r++) offsets[r] = r * v.tap_height * row;
    else
        for (long r = 0; r < v.taps_high; r++)
            for (long s = 0; s < v.taps_wide; s++) offsets[r * v.taps_wide + s] = r * v.tap_height * row + s * v.tap_width * column;
    const bool flat = v.columns * v.column_step * column == v.row_step * row && y_row == v.columns * y_column;  // rows follow each other
    for (long first = 0; first < v.rows; first += source.strip) {
        const long last = std::min(v.rows, first + source.strip);
        const T *from = source.read(first, last);
        const T *filters = packed;
        for (long g = 0; g < groups; g++)
            for (long o = 0; o < outs; o += COLUMNS<T>, filters += taps * ins * COLUMNS<T>) {
                const long at = g * outs + o, columns = std::min(long(COLUMNS<T>), outs - o);
                T some[COLUMNS<T>] = {};
                if (bias) std::copy(bias + at, bias + at + columns, some);
                T *to = y + first * y_row + at;
                if (flat)
                    multiply(product, (last - first) * v.columns, from + g * ins, filters, to, y_column, columns, some, mode);
                else
                    for (long i = 0; i < last - first; i++)
                        multiply(product, v.columns, from + i * v.row_step * row + g * ins, filters, to + i * y_row, y_column, columns, some, mode);
            }
    }
}

// The same where each channel is a group of its own: filters are (taps, C).
template <class T>
static void correlate_depthwise(const View &v, const Image<T> &x, const T *filters, const T *bias, Epilogue mode, T *y, long y_row, long y_column,
                                T *scratch) {
    constexpr int SOME = 4;
    const Source<T> source(v, x, scratch);
    const long c = x.c, column = source.column, row = source.row;
    for (long first = 0; first < v.rows; first += source.strip) {
        const long last = std::min(v.rows, first + source.strip);
        const T *from = source.read(first, last);
        for (long i = first; i < last; i++)
            for (long j = 0; j < v.columns; j += SOME) {
                const long pixels = std::min(long(SOME), v.columns - j);
                const T *at = from + (i - first) * v.row_step * row + j * v.column_step * column;
                T *to = y + i * y_row + j * y_column;
                over_channels<T>(c, [&](auto lanes, long q) {
                    typedef typename decltype(lanes)::Register Numbers;
                    Numbers sum[SOME];
                    for (int p = 0; p < SOME; p++) sum[p] = mode >= BIAS ? lanes.load(bias + q) : Numbers{};
                    for (long r = 0; r < v.taps_high; r++)
                        for (long s = 0; s < v.taps_wide; s++) {
                            const Numbers weight = lanes.load(filters + (r * v.taps_wide + s) * c + q);
                            const T *tap = at + r * v.tap_height * row + s * v.tap_width * column + q;
                            if (pixels == SOME)
                                for (int p = 0; p < SOME; p++) sum[p] += weight * lanes.load(tap + p * v.column_step * column);
                            else
                                for (int p = 0; p < pixels; p++) sum[p] += weight * lanes.load(tap + p * v.column_step * column);
                        }
                    for (int p = 0; p < pixels; p++) lanes.store(to + p * y_column + q, mode == BIAS_RELU ? (sum[p] < T(0) ? Numbers{} : sum[p]) : sum[p]);
                });
            }
    }
}

static inline bool is_depthwise(const Shape &g) { return g.groups > 1 && g.groups == g.c && g.groups == g.k; }

static inline View forward_view(const Shape &g) {
    return {g.oh, g.ow, -g.top, -g.left, g.sh, g.sw, g.kh, g.kw, g.dh, g.dw};
}

// The taps of one axis that a phase of the input's pixels meets, from the last to the first: pixel `phase` + i · stride
// meets tap `first` − t · step in the output at `start` + i + t · reach.
struct Phase { long pixels, first, step, taps, start, reach; };

static inline long common_divisor(long a, long b) { return b ? common_divisor(b, a % b) : a; }

static inline Phase phase_of(long phase, long size, long stride, long padding, long dilation, long kernel) {
    const long step = stride / common_divisor(stride, dilation);  // taps that far apart meet the same phase
    long first = -1;
    for (long tap = kernel - 1; tap >= 0 && tap > kernel - 1 - step; tap--)
        if ((phase + padding - tap * dilation) % stride == 0) { first = tap; break; }
    Phase found{(size - phase + stride - 1) / stride, first, step, 0, 0, step * dilation / stride};
    if (first >= 0) {
        found.taps = first / step + 1;
        found.start = (phase + padding - first * dilation) / stride;
    }
    return found;
}

// Filters for one phase, of weight (K, C / groups, kh, kw): forward has a single one, with all taps in their order.
template <class T>
static void pack(const Shape &g, const T *weight, const Phase &rows, const Phase &columns, bool turned, T *to) {
    const long outs = (turned ? g.c : g.k) / g.groups, ins = (turned ? g.k : g.c) / g.groups, taps = g.kh * g.kw, c = g.c / g.groups, k = g.k / g.groups;
    for (long group = 0; group < g.groups; group++, weight += k * c * taps)
        for (long o = 0; o < outs; o += COLUMNS<T>) {
            const long some = std::min(long(COLUMNS<T>), outs - o);
            for (long i = 0; i < ins; i++)
                for (long r = 0; r < rows.taps; r++)
                    for (long s = 0; s < columns.taps; s++) {
                        const long tap = (rows.first - r * rows.step) * g.kw + columns.first - s * columns.step;
                        T *at = to + ((r * columns.taps + s) * ins + i) * COLUMNS<T>;
                        for (long v = 0; v < some; v++) at[v] = weight[(turned ? i * c + o + v : (o + v) * c + i) * taps + tap];
                        for (long v = some; v < COLUMNS<T>; v++) at[v] = T(0);
                    }
            to += rows.taps * columns.taps * ins * COLUMNS<T>;
        }
}

template <class T> static void pack_depthwise(const Shape &g, const T *weight, const Phase &rows, const Phase &columns, T *to) {
    for (long r = 0; r < rows.taps; r++)
        for (long s = 0; s < columns.taps; s++, to += g.c) {
            const long tap = (rows.first - r * rows.step) * g.kw + columns.first - s * columns.step;
            for (long q = 0; q < g.c; q++) to[q] = weight[q * g.kh * g.kw + tap];
        }
}

template <class T> static long packed_forward_size(const Shape &g) {
    return is_depthwise(g) ? g.kh * g.kw * g.c : packed_size<T>(g.k / g.groups, g.kh * g.kw, g.c / g.groups, g.groups);
}
template <class T> static long packed_turned_size(const Shape &g) {
    return is_depthwise(g) ? g.kh * g.kw * g.c : packed_size<T>(g.c / g.groups, g.kh * g.kw, g.k / g.groups, g.groups);
}

template <class T> static void pack_forward(const Shape &g, const T *weight, T *to) {
    const Phase rows{g.oh, 0, -1, g.kh, 0, 0}, columns{g.ow, 0, -1, g.kw, 0, 0};
    if (is_depthwise(g)) pack_depthwise(g, weight, rows, columns, to);
    else pack(g, weight, rows, columns, false, to);
}

// All phases one after the other.
template <class T> static void pack_turned(const Shape &g, const T *weight, T *to) {
    for (long i = 0; i < std::min(g.sh, g.h); i++)
        for (long j = 0; j < std::min(g.sw, g.w); j++) {
            const Phase rows = phase_of(i, g.h, g.sh, g.top, g.dh, g.kh), columns = phase_of(j, g.w, g.sw, g.left, g.dw, g.kw);
            if (is_depthwise(g)) {
                pack_depthwise(g, weight, rows, columns, to);
                to += rows.taps * columns.taps * g.c;
            } else {
                pack(g, weight, rows, columns, true, to);
                to += packed_size<T>(g.c / g.groups, rows.taps * columns.taps, g.k / g.groups, g.groups);
            }
        }
}

template <class T> static long forward_scratch(const Shape &g) { return frame_size<T>(forward_view(g), g.c); }

template <class T>
static void forward(const Shape &g, const T *x, const Layout &at, const T *packed, const T *bias, Epilogue mode, T *y, T *scratch) {
    View v = forward_view(g);
    const bool single = g.kh * g.kw == 1 && g.sh == 1 && g.sw == 1 && g.oh == g.h && g.ow == g.w && at.c == 1 && at.w == g.c && at.h == g.w * g.c && at.n == g.h * at.h;
    if (single) v.rows = g.n * g.oh * g.ow, v.columns = 1;  // all pixels of all images follow each other
    for (long n = 0; n < (single ? 1 : g.n); n++, x += at.n, y += g.oh * g.ow * g.k) {
        const Image<T> image = single ? Image<T>(x, g.c, v.rows, 1, {0, 1, g.c, g.c}) : Image<T>(x, g.c, g.h, g.w, at);
        const long row = single ? g.k : g.ow * g.k;
        if (is_depthwise(g)) correlate_depthwise(v, image, packed, bias, mode, y, row, g.k, scratch);
        else correlate(v, image, packed, g.k, g.groups, bias, mode, y, row, g.k, scratch);
    }
}

static inline View phase_view(const Phase &rows, const Phase &columns) {
    return {rows.pixels, columns.pixels, rows.start, columns.start, 1, 1, rows.taps, columns.taps, rows.reach, columns.reach};
}

template <class T> static long grad_input_scratch(const Shape &g) {
    long most = 0;
    for (long i = 0; i < std::min(g.sh, g.h); i++)
        for (long j = 0; j < std::min(g.sw, g.w); j++)
            most = std::max(most, frame_size<T>(phase_view(phase_of(i, g.h, g.sh, g.top, g.dh, g.kh), phase_of(j, g.w, g.sw, g.left, g.dw, g.kw)), g.k));
    return most;
}

template <class T> static void grad_input(const Shape &g, const T *dy, const Layout &at, const T *packed, T *dx, T *scratch) {
    for (long n = 0; n < g.n; n++, dy += at.n, dx += g.h * g.w * g.c) {
        const Image<T> gradient(dy, g.k, g.oh, g.ow, at);
        const T *filters = packed;
        for (long i = 0; i < std::min(g.sh, g.h); i++)
            for (long j = 0; j < std::min(g.sw, g.w); j++) {
                const Phase rows = phase_of(i, g.h, g.sh, g.top, g.dh, g.kh), columns = phase_of(j, g.w, g.sw, g.left, g.dw, g.kw);
                const long taps = rows.taps * columns.taps;
                T *to = dx + (i * g.w + j) * g.c;
                if (rows.pixels > 0 && columns.pixels > 0) {
                    if (taps == 0) {
                        for (long r = 0; r < rows.pixels; r++)
                            for (long s = 0; s < columns.pixels; s++)
                                std::fill_n(to + (r * g.sh * g.w + s * g.sw) * g.c, g.c, T(0));
                    } else if (is_depthwise(g)) {
                        correlate_depthwise(phase_view(rows, columns), gradient, filters, (const T *)nullptr, SET, to, g.sh * g.w * g.c, g.sw * g.c, scratch);
                    } else {
                        correlate(phase_view(rows, columns), gradient, filters, g.c, g.groups, (const T *)nullptr, SET, to, g.sh * g.w * g.c, g.sw * g.c, scratch);
                    }
                }
                filters += is_depthwise(g) ? taps * g.c : packed_size<T>(g.c / g.groups, taps, g.k / g.groups, g.groups);
            }
    }
}

// -- the gradient of the weight ---------------------------------------------------------

constexpr long STRIP_PIXELS = 192;  // whose gradients stay in the nearest cache
constexpr long FEW_INPUTS = 8;      // numbers of a kernel row below which all taps are gathered first

static inline bool gathers(const Shape &g) { return g.groups == 1 && g.kh > 1 && g.kw * g.c <= FEW_INPUTS && g.kh * g.kw * g.c <= 128; }
template <class T> static long padded_filters(const Shape &g) { return is_depthwise(g) ? 1 : round_up(g.k / g.groups, WIDTH<T>); }

// Sums are (groups, kh, kw, C / groups, padded filters of a group); of depthwise ones (kh, kw, C).
template <class T> static long grad_weight_size(const Shape &g) { return g.kh * g.kw * g.c * padded_filters<T>(g); }

// Output rows of a strip; of small images, several are taken together.
static inline long weight_strip(const Shape &g) { return std::min(g.oh, std::max(1L, STRIP_PIXELS / g.ow)); }
static inline long images_together(const Shape &g) { return std::max(1L, std::min(g.n, STRIP_PIXELS / (g.oh * g.ow))); }

template <class T> static long grad_weight_scratch(const Shape &g) {
    const View v = forward_view(g);
    const long strip = weight_strip(g), together = images_together(g), pixels = together * strip * g.ow;
    return together * v.seen_rows(strip) * v.seen_columns() * g.c + pixels * (is_depthwise(g) ? g.k : padded_filters<T>(g) * g.groups) + (gathers(g) ? g.kh * g.kw * g.c * pixels : 0);
}

template <class T>
static void grad_weight_depthwise(const Shape &g, const T *from, const long *offsets, long column, long row, long rows, const T *dy, long d_row, long d_column,
                                  T *sums) {
    for (long r = 0; r < g.kh; r++)
        for (long s = 0; s < g.kw; s++) {
            T *to = sums + (r * g.kw + s) * g.c;
            const T *tap = from + r * g.dh * row + s * g.dw * column;
            over_channels<T>(g.c, [&](auto lanes, long q) {
                auto sum = lanes.load(to + q);
                for (long i = 0; i < rows; i++)
                    for (long j = 0; j < g.ow; j++) sum += lanes.load(tap + offsets[i] + j * g.sw * column + q) * lanes.load(dy + i * d_row + j * d_column + q);
                lanes.store(to + q, sum);
            });
        }
}

template <class T>
static void grad_weight(const Shape &g, const T *x, const Layout &x_at, const T *dy, const Layout &dy_at, T *sums, T *scratch) {
    const View v = forward_view(g);
    const long ins = g.c / g.groups, outs = g.k / g.groups, padded = padded_filters<T>(g), strip = weight_strip(g), together = images_together(g);
    const long frame_numbers = v.seen_rows(strip) * v.seen_columns() * g.c;
    const bool depthwise = is_depthwise(g), framed = !fits(v, Image<T>(x, g.c, g.h, g.w, x_at)), gradients_last = dy_at.c == 1 || g.k == 1;
    const bool copied = !gradients_last || (padded != outs && !depthwise) || (together > 1 && dy_at.n != g.oh * dy_at.h);
    const long row = framed ? v.seen_columns() * g.c : x_at.h, column = framed ? g.c : x_at.w;
    const bool whole_rows = g.groups == 1 && g.dw == 1 && column == g.c;
    const long group = copied && !depthwise ? padded : outs;  // the distance of two groups' gradients
    const long d_column = copied ? group * g.groups : dy_at.w, d_row = copied ? g.ow * d_column : dy_at.h;
    T *framing = scratch, *gradients = framing + together * frame_numbers, *gathered = gradients + together * strip * g.ow * (depthwise ? g.k : padded * g.groups);
    long offsets[STRIP_PIXELS + 1];
    for (long n = 0; n < g.n; n += together)
        for (long first = 0; first < g.oh; first += strip) {
            const long images = std::min(together, g.n - n), high = std::min(strip, g.oh - first), rows = images * high, pixels = rows * g.ow;
            const T *from = x + n * x_at.n + (v.row + first * g.sh) * x_at.h + v.column * x_at.w, *d = dy + n * dy_at.n + first * dy_at.h;
            if (framed) {
                for (long b = 0; b < images; b++)
                    frame(Image<T>(x + (n + b) * x_at.n, g.c, g.h, g.w, x_at), v.row + first * g.sh, v.seen_rows(high), v.column, v.seen_columns(), framing + b * frame_numbers);
                from = framing;
            }
            for (long i = 0; i < rows; i++) offsets[i] = i / high * (framed ? frame_numbers : x_at.n) + i % high * g.sh * row;
            if (copied) {
                T *to = gradients;
                for (long p = 0; p < pixels; p++)
                    for (long q = 0; q < g.groups; q++, to += group) {
                        const long i = p / g.ow;
                        const T *pixel = d + i / high * dy_at.n + i % high * dy_at.h + p % g.ow * dy_at.w + q * outs * dy_at.c;
                        if (gradients_last) std::copy_n(pixel, outs, to);
                        else for (long o = 0; o < outs; o++) to[o] = pixel[o * dy_at.c];
                        std::fill(to + outs, to + group, T(0));
                    }
                d = gradients;
            }
            if (depthwise) {
                grad_weight_depthwise(g, from, offsets, column, row, rows, d, d_row, d_column, sums);
                continue;
            }
            if (gathers(g) && d_row == g.ow * d_column) {  // (taps, C, pixels) times (pixels, K)
                T *to = gathered;
                for (long r = 0; r < g.kh; r++)
                    for (long j = 0; j < g.kw * g.c; j++)
                        for (long i = 0; i < rows; i++) {
                            const T *tap = from + offsets[i] + r * g.dh * row + j / g.c * g.dw * column + j % g.c;
                            if (g.sw * column == 1) std::copy_n(tap, g.ow, to);
                            else for (long p = 0; p < g.ow; p++) to[p] = tap[p * g.sw * column];
                            to += g.ow;
                        }
                const long none = 0;
                const Product<T> product{pixels, 1, &none, 1, pixels, d_column, 0};
                for (long o = 0; o < padded; o += COLUMNS<T>)
                    multiply(product, g.kh * g.kw * g.c, gathered, d + o, sums + o, padded, std::min(long(COLUMNS<T>), padded - o), (const T *)nullptr, ADD);
                continue;
            }
            const Product<T> product{1, g.sw * column, offsets, rows, g.ow, d_column, d_row};
            T *to = sums;
            for (long q = 0; q < g.groups; q++)
                for (long r = 0; r < g.kh; r++)
                    for (long s = 0; s < (whole_rows ? 1 : g.kw); s++) {
                        const long inputs = whole_rows ? g.kw * ins : ins;
                        for (long o = 0; o < padded; o += COLUMNS<T>)
                            multiply(product, inputs, from + r * g.dh * row + s * g.dw * column + q * ins, d + q * group + o, to + o, padded,
                                     std::min(long(COLUMNS<T>), padded - o), (const T *)nullptr, ADD);
                        to += inputs * padded;
                    }
        }
}

// Sums to weight (K, C / groups, kh, kw).
template <class T> static void unpack(const Shape &g, const T *sums, T *weight) {
    const long ins = g.c / g.groups, outs = g.k / g.groups, padded = padded_filters<T>(g), taps = g.kh * g.kw;
    if (is_depthwise(g)) {
        for (long tap = 0; tap < taps; tap++)
            for (long q = 0; q < g.c; q++) weight[q * taps + tap] = sums[tap * g.c + q];
        return;
    }
    for (long q = 0; q < g.groups; q++, sums += taps * ins * padded)
        for (long o = 0; o < outs; o += WIDTH<T>)  // whole cache lines of the sums at a time
            for (long i = 0; i < ins; i++)
                for (long tap = 0; tap < taps; tap++)
                    for (long v = o; v < std::min(outs, o + WIDTH<T>); v++)
                        weight[((q * outs + v) * ins + i) * taps + tap] = sums[(tap * ins + i) * padded + v];
}
