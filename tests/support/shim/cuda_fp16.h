// IEEE half precision for the host: stored as bits, rounded to nearest even.
#pragma once
#include <cstdint>
#include <cstring>

struct __half {
    std::uint16_t bits;
};

inline float __half2float(__half h) {
    // The exponent is moved by multiplying with 2^112, which also makes subnormal numbers normal.
    std::uint32_t bits = static_cast<std::uint32_t>(h.bits & 0x7fff) << 13;
    float x, scale;
    const std::uint32_t scale_bits = (254 - 15) << 23;
    std::memcpy(&x, &bits, 4);
    std::memcpy(&scale, &scale_bits, 4);
    x *= scale;
    std::memcpy(&bits, &x, 4);
    if ((h.bits & 0x7c00) == 0x7c00) bits |= 0x7f800000;  // infinite, or not a number
    bits |= static_cast<std::uint32_t>(h.bits & 0x8000) << 16;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline __half __float2half(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const std::uint16_t sign = (bits >> 16) & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return {static_cast<std::uint16_t>(sign | 0x7e00)};
    if (bits >= 0x477ff000) return {static_cast<std::uint16_t>(sign | 0x7c00)};
    if (bits < 0x38800000) {  // subnormal: the addition rounds at the last place of a half
        float magnitude;
        std::memcpy(&magnitude, &bits, 4);
        magnitude += 0.5f;
        std::memcpy(&bits, &magnitude, 4);
        return {static_cast<std::uint16_t>(sign | (bits - 0x3f000000))};
    }
    bits += 0xfff + ((bits >> 13) & 1);
    return {static_cast<std::uint16_t>(sign | ((bits - 0x38000000) >> 13))};
}
