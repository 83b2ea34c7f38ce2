// float16 for the emulator: to the nearest, ties to even.
#pragma once

#include <cmath>
#include <cstdint>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half x) {
  const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  float size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31) size = fraction == 0 ? INFINITY : NAN;
  return std::copysign(size, x.bits & 0x8000 ? -1.0f : 1.0f);
}

inline __half __float2half_rn(float x) {
  if (x != x) return {0x7fff};
  const float size = std::fabs(x);
  int bits = 0x7c00;
  if (size < 65520) {  // half way from the largest number to the next power of two
    // Below 2^-14 the values are as far apart as just above. The leading one of the fraction adds one to the exponent.
    const int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
    bits = (exponent + 14) * 1024 + static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  }
  return {static_cast<uint16_t>(bits | (std::signbit(x) ? 0x8000 : 0))};
}
