// bfloat16 for the host: the upper half of a float, rounded to nearest even.
#pragma once
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
    std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 b) {
    const std::uint32_t bits = static_cast<std::uint32_t>(b.bits) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline __nv_bfloat16 __float2bfloat16(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
    bits += 0x7fff + ((bits >> 16) & 1);
    return {static_cast<std::uint16_t>(bits >> 16)};
}
