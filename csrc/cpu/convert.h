// Rows of any dtype as rows of the type that is accumulated in, and back.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../dtype.h"
#include "level.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// Calls f with a value of the C++ type that the code names.
template <typename F>
static inline void dispatch(DType dtype, F f) {
  switch (dtype) {
    case DType::float64:
      return f(double{});
    case DType::float32:
      return f(float{});
    case DType::bfloat16:
      return f(BFloat16{});
    case DType::float16:
      return f(Float16{});
  }
}

// What a dtype is accumulated in.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

static inline float bits_to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
static inline uint32_t float_to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

static inline double load(double x) { return x; }
static inline float load(float x) { return x; }
static inline float load(BFloat16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }
static inline float load(Float16 x) {
#ifdef __F16C__
  return _cvtsh_ss(x.bits);
#else
  uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Moves the exponent by a product, which is exact for subnormal values too.
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * bits_to_float(0x77800000u)));
#endif
}

static inline void store(double x, double* y) { *y = x; }
static inline void store(float x, float* y) { *y = x; }
static inline void store(float x, BFloat16* y) {
  uint32_t bits = float_to_bits(x);
  // To nearest, ties to even; a NaN keeps its sign and stays quiet.
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  y->bits = static_cast<uint16_t>(x != x ? (bits >> 16) | 0x40u : rounded);
}
static inline void store(float x, Float16* y) {
#ifdef __F16C__
  y->bits = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
  uint32_t bits = float_to_bits(x), sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  uint32_t half;
  if (bits > 0x7f800000u) {
    half = 0x7e00u;
  } else if (bits >= 0x477ff000u) {
    half = 0x7c00u;
  } else if (bits < 0x38800000u) {
    // Subnormal: adding one half lets the processor round at the right place.
    half = float_to_bits(bits_to_float(bits) + 0.5f) - 0x3f000000u;
  } else {
    half = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  }
  y->bits = static_cast<uint16_t>(sign | half);
#endif
}

// n values of x as type A: x itself where the types agree, else converted into the buffer.
template <typename A>
static inline const A* widen(const A* x, A*, int64_t) {
  return x;
}
template <typename A, typename T>
static inline const A* widen(const T* x, A* buffer, int64_t n) {
  for (int64_t j = 0; j < n; ++j) buffer[j] = static_cast<A>(load(x[j]));
  return buffer;
}

#ifdef __F16C__
// The compiler does not vectorise the conversions of float16 by itself.
static inline __m256 widen_eight(const Float16* x) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}
static inline const float* widen(const Float16* x, float* buffer, int64_t n) {
  int64_t j = 0;
  for (; j + 8 <= n; j += 8) _mm256_storeu_ps(buffer + j, widen_eight(x + j));
  for (; j < n; ++j) buffer[j] = load(x[j]);
  return buffer;
}
#endif

// What a loop reads that calls `load` on every number: T itself, unless that would keep the loop scalar.
template <typename T>
struct ReadAs {
  using type = T;
};
template <>
struct ReadAs<Float16> {
  using type = float;
};
template <typename T>
using Direct = typename ReadAs<T>::type;

// Where n results of type A are to be put before `narrow` takes them to y: y itself where the types agree.
template <typename A>
static inline A* landing(A* y, A*) {
  return y;
}
template <typename A, typename T>
static inline A* landing(T*, A* buffer) {
  return buffer;
}

// n results as the output's type.
template <typename A, typename T>
static inline void narrow(const A* x, T* y, int64_t n) {
  if (static_cast<const void*>(x) == static_cast<const void*>(y)) return;
  for (int64_t j = 0; j < n; ++j) store(x[j], y + j);
}

#ifdef __F16C__
static inline void narrow(const float* x, Float16* y, int64_t n) {
  int64_t j = 0;
  for (; j + 8 <= n; j += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(x + j), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + j), half);
  }
  for (; j < n; ++j) store(x[j], y + j);
}
#endif

#ifdef __AVX2__
// `store` of values of which none is a NaN, in 32 bits.
static inline __m256i rounded(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x),
                odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}
// The compiler would choose between values and NaNs in 16 bits, which takes it twice as long.
static inline void narrow(const float* x, BFloat16* y, int64_t n) {
  int64_t j = 0;
  for (; j + 16 <= n; j += 16) {
    const __m256 low = _mm256_loadu_ps(x + j), high = _mm256_loadu_ps(x + j + 8);
    if (_mm256_movemask_ps(_mm256_cmp_ps(low, high, _CMP_UNORD_Q)) != 0) {
      for (int64_t k = j; k < j + 16; ++k) store(x[k], y + k);
      continue;
    }
    // Packing alternates between the halves of its arguments.
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded(low), rounded(high)), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + j), packed);
  }
  for (; j < n; ++j) store(x[j], y + j);
}
#endif

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
