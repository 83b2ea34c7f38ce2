// Weighted sums of rows of adjacent values.
#pragma once

#include <type_traits>

#include "convert.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {

// Memory that a thread will read next. It is fetched little by little while the thread computes: the processor fetches
// by itself only what comes after what is being read.
struct Ahead {
  uintptr_t next, end, step;  // addresses, and so many bytes at a time

  void fetch() {
    constexpr uintptr_t kLine = 64;
    if (next >= end) return;
    for (const uintptr_t stop = next + step; next < stop; next += kLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(next));
    }
  }
};

// Pieces of rows: `count` of `n` values, the first ones at the beginning. With each a bit of `ahead` is fetched.
struct Pieces {
  int64_t count, n, in_step, out_step;
  Ahead* ahead = nullptr;
};

// Calls f with n, as a constant where rows are short and of a usual length: a loop of known length is half as long.
template <typename F>
static inline void with_size(int64_t n, F f) {
  if (n == 8) return f(std::integral_constant<int64_t, 8>{});
  if (n == 16) return f(std::integral_constant<int64_t, 16>{});
  f(n);
}

// y = sum of w[t] * row[t], added to y if kAdd.
template <int kTaps, bool kAdd, typename A, typename T, typename N>
static inline void sum_row(const T* const (&row)[kTaps], const A (&w)[kTaps], A* __restrict y, N n) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    A sum = w[0] * load(row[0][j]);
    for (int t = 1; t < kTaps; ++t) sum += w[t] * load(row[t][j]);
    y[j] = kAdd ? y[j] + sum : sum;
  }
}

#ifdef __F16C__
// The compiler does not vectorise the conversions of float16 by itself.
template <int kTaps, bool kAdd, typename N>
static inline void sum_row(const Float16* const (&row)[kTaps], const float (&w)[kTaps], float* __restrict y, N n) {
  const int64_t whole = n / 8 * 8;
  for (int64_t j = 0; j < whole; j += 8) {
    __m256 sum = kAdd ? _mm256_loadu_ps(y + j) : _mm256_setzero_ps();
    for (int t = 0; t < kTaps; ++t) sum = _mm256_fmadd_ps(_mm256_set1_ps(w[t]), widen_eight(row[t] + j), sum);
    _mm256_storeu_ps(y + j, sum);
  }
  for (int64_t j = whole; j < n; ++j) {
    float sum = kAdd ? y[j] : 0;
    for (int t = 0; t < kTaps; ++t) sum += w[t] * load(row[t][j]);
    y[j] = sum;
  }
}
#endif

// The same of pieces.
template <int kTaps, bool kAdd, typename A, typename T>
static inline void sum_rows_of(const T* const* rows, const A* w, A* y, const Pieces& pieces) {
  A weight[kTaps];
  for (int t = 0; t < kTaps; ++t) weight[t] = w[t];
  Ahead ahead = pieces.ahead == nullptr ? Ahead{} : *pieces.ahead;  // a copy stays in registers
  for (int64_t i = 0; i < pieces.count; ++i) {
    ahead.fetch();
    const T* row[kTaps];
    for (int t = 0; t < kTaps; ++t) row[t] = rows[t] + i * pieces.in_step;
    A* to = y + i * pieces.out_step;
    with_size(pieces.n, [&](auto n) { sum_row<kTaps, kAdd>(row, weight, to, n); });
  }
  if (pieces.ahead != nullptr) *pieces.ahead = ahead;
}

template <bool kAdd, typename A, typename T>
static inline void sum_rows_at_once(const T* const* rows, const A* w, int64_t taps, A* y, const Pieces& pieces) {
  switch (taps) {
    case 1:
      return sum_rows_of<1, kAdd>(rows, w, y, pieces);
    case 2:
      return sum_rows_of<2, kAdd>(rows, w, y, pieces);
    case 3:
      return sum_rows_of<3, kAdd>(rows, w, y, pieces);
    case 4:
      return sum_rows_of<4, kAdd>(rows, w, y, pieces);
    case 5:
      return sum_rows_of<5, kAdd>(rows, w, y, pieces);
    case 6:
      return sum_rows_of<6, kAdd>(rows, w, y, pieces);
  }
}

// The same for any number of taps.
template <typename A, typename T>
static inline void sum_rows(const T* const* rows, const A* w, int64_t taps, A* y, const Pieces& pieces, bool add) {
  constexpr int64_t kAtOnce = 6;
  if (taps == 0 && !add) {
    for (int64_t i = 0; i < pieces.count; ++i) {
      for (int64_t j = 0; j < pieces.n; ++j) y[i * pieces.out_step + j] = 0;
    }
  }
  for (int64_t t = 0; t < taps; t += kAtOnce) {
    const int64_t count = taps - t < kAtOnce ? taps - t : kAtOnce;
    if (add || t > 0) {
      sum_rows_at_once<true>(rows + t, w + t, count, y, pieces);
    } else {
      sum_rows_at_once<false>(rows + t, w + t, count, y, pieces);
    }
  }
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
