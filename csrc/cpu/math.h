// Functions that the compiler vectorises in float: a call to the C library in a loop would keep it scalar.
//
// Range reduction and a polynomial; the errors stand above each function, and tests/test_activations.py measures them.
// No std:: here, see level.h.
#pragma once

#include <math.h>

#include <cstdint>

#include "../activations.h"
#include "convert.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {

struct Math {
  // x = n ln 2 + r with |r| <= ln 2 / 2, and p = exp(r) - 1.
  struct Reduced {
    int32_t n;
    float p;
  };
  FASTGAN_MATH Reduced reduce(float x) {
    // Adding 1.5 * 2^23 rounds to an integer, which the low bits then hold.
    const float magic = 12582912.0f, shifted = x * 1.44269504f + magic, n = shifted - magic;
    // ln 2 in two parts, the first of which has few bits: its product with n is exact.
    const float r = x - n * 0.693359375f - n * -2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    return {static_cast<int32_t>(float_to_bits(shifted) - float_to_bits(magic)), p * (r * r) + r};
  }
  // 2^n for -127 < n < 128.
  FASTGAN_MATH float power_of_two(int32_t n) { return bits_to_float(static_cast<uint32_t>(n + 127) << 23); }

  // Error below 1.1 units in the last place; subnormal results and infinity included.
  FASTGAN_MATH float exp(float x) {
    const float high = x > 89.0f ? 89.0f : x, inside = high < -104.0f ? -104.0f : high;
    const Reduced of = reduce(inside);
    const int32_t half = of.n >> 1;
    return (1 + of.p) * power_of_two(half) * power_of_two(of.n - half);
  }
  // For x <= 88. Error below 1.6 units in the last place.
  FASTGAN_MATH float expm1(float x) {
    const Reduced of = reduce(x < -87.0f ? -87.0f : x);
    const float scale = power_of_two(of.n);
    return scale * of.p + (scale - 1);
  }
  // Error below 2.5 units in the last place.
  FASTGAN_MATH float tanh(float x) {
    const float size = x < 0 ? -x : x, e = expm1(2 * (size > 10.0f ? 10.0f : size)), t = e / (e + 2);
    return x < 0 ? -t : t;
  }
  // For 0 <= u <= 1: 2 artanh(u / (2 + u)), whose series needs few terms. Error below 2 units in the last place.
  FASTGAN_MATH float log1p(float u) {
    const float s = u / (2 + u), square = s * s;
    float p = 2.0f / 15;
    p = p * square + 2.0f / 13;
    p = p * square + 2.0f / 11;
    p = p * square + 2.0f / 9;
    p = p * square + 2.0f / 7;
    p = p * square + 2.0f / 5;
    p = p * square + 2.0f / 3;
    return 2 * s + s * square * p;
  }
  // Polynomials fitted to erf(x) / x up to 1 and to exp(x^2) erfc(x) from 1 to 4, where the largest error of erf is
  // least. Error below 2 units in the last place.
  FASTGAN_MATH float erf(float x) {
    const float square = x * x;
    float small = 7.85385771e-5f;
    small = small * square - 8.01019252e-4f;
    small = small * square + 5.18832756e-3f;
    small = small * square - 2.68538119e-2f;
    small = small * square + 1.12835851e-1f;
    small = small * square - 3.76126258e-1f;
    small = small * square + 1.28379170e-1f;
    small = small * x + x;  // the first coefficient is 1.128...: its product with x is rounded less
    const float size = x < 0 ? -x : x, inside = size > 4.0f ? 4.0f : size, t = inside - 1;
    float large = 1.06842879e-4f;
    large = large * t - 1.05705350e-3f;
    large = large * t + 4.91127701e-3f;
    large = large * t - 1.51101422e-2f;
    large = large * t + 3.68749706e-2f;
    large = large * t - 7.90533401e-2f;
    large = large * t + 1.54350554e-1f;
    large = large * t - 2.73211076e-1f;
    large = large * t + 4.27583570e-1f;
    const float rest = 1 - large * exp(-inside * inside), signed_rest = x < 0 ? -rest : rest;
    return size > 1.0f ? signed_rest : small;
  }

  FASTGAN_MATH double exp(double x) { return ::exp(x); }
  FASTGAN_MATH double expm1(double x) { return ::expm1(x); }
  FASTGAN_MATH double tanh(double x) { return ::tanh(x); }
  FASTGAN_MATH double log1p(double x) { return ::log1p(x); }
  FASTGAN_MATH double erf(double x) { return ::erf(x); }
};

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
