// Rows of values as columns.
#pragma once

#include "convert.h"

#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {

// to[j][i] = from[i][j] for i < rows and j < columns; rows are so many values apart.
template <typename From, typename To>
static inline void transpose(const From* from, int64_t from_pitch, int64_t rows, int64_t columns, To* to,
                             int64_t to_pitch) {
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = 0; i < rows; ++i) store(load(from[i * from_pitch + j]), to + j * to_pitch + i);
  }
}

#ifdef __SSE__
static inline void transpose(const float* from, int64_t from_pitch, int64_t rows, int64_t columns, float* to,
                             int64_t to_pitch) {
  constexpr int64_t kBlock = 4;
  const int64_t whole_rows = rows - rows % kBlock, whole_columns = columns - columns % kBlock;
  for (int64_t j = 0; j < whole_columns; j += kBlock) {
    for (int64_t i = 0; i < whole_rows; i += kBlock) {
      const float* x = from + i * from_pitch + j;
      float* y = to + j * to_pitch + i;
      __m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + from_pitch);
      __m128 c = _mm_loadu_ps(x + 2 * from_pitch), d = _mm_loadu_ps(x + 3 * from_pitch);
      _MM_TRANSPOSE4_PS(a, b, c, d);
      _mm_storeu_ps(y, a);
      _mm_storeu_ps(y + to_pitch, b);
      _mm_storeu_ps(y + 2 * to_pitch, c);
      _mm_storeu_ps(y + 3 * to_pitch, d);
    }
  }
  transpose<float, float>(from + whole_rows * from_pitch, from_pitch, rows - whole_rows, whole_columns, to + whole_rows,
                          to_pitch);
  transpose<float, float>(from + whole_columns, from_pitch, rows, columns - whole_columns,
                          to + whole_columns * to_pitch, to_pitch);
}
#endif

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
