// Interpolates of two batches on the CPU, every sample with a number of its own.
#include "samples.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

template <typename T>
void run(const Interpolate& a, int threads) {
  using A = typename Accumulator<T>::type;
  const T *real = static_cast<const T*>(a.real), *fake = static_cast<const T*>(a.fake);
  T* y = static_cast<T*>(a.y);
  for_each_tile(a.count, a.size, threads, [&](int64_t n, int64_t, int64_t begin, int64_t numbers) {
    const A eps = static_cast<const A*>(a.eps)[n], rest = 1 - eps;
    A real_buffer[kChunk], fake_buffer[kChunk], out_buffer[kChunk];
    for (int64_t start = begin; start < begin + numbers; start += kChunk) {
      const int64_t size = begin + numbers - start < kChunk ? begin + numbers - start : kChunk;
      const A *r = widen(real + start, real_buffer, size), *f = widen(fake + start, fake_buffer, size);
      A* to = landing(y + start, out_buffer);
#pragma omp simd
      for (int64_t j = 0; j < size; ++j) to[j] = eps * r[j] + rest * f[j];
      narrow(to, y + start, size);
    }
  });
}

template <typename T>
void run(const InterpolateBackward& a, int threads) {
  using A = typename Accumulator<T>::type;
  const T* dy = static_cast<const T*>(a.dy);
  T *dreal = static_cast<T*>(a.dreal), *dfake = static_cast<T*>(a.dfake);
  for_each_tile(a.count, a.size, threads, [&](int64_t n, int64_t, int64_t begin, int64_t numbers) {
    const A eps = static_cast<const A*>(a.eps)[n], rest = 1 - eps;
    A buffer[kChunk], real_buffer[kChunk], fake_buffer[kChunk];
    for (int64_t start = begin; start < begin + numbers; start += kChunk) {
      const int64_t size = begin + numbers - start < kChunk ? begin + numbers - start : kChunk;
      const A* from = widen(dy + start, buffer, size);
      A *real = landing(dreal + start, real_buffer), *fake = landing(dfake + start, fake_buffer);
#pragma omp simd
      for (int64_t j = 0; j < size; ++j) {
        const A grad = from[j];
        real[j] = eps * grad;
        fake[j] = rest * grad;
      }
      narrow(real, dreal + start, size);
      narrow(fake, dfake + start, size);
    }
  });
}

}  // namespace

void interpolate(const Interpolate& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, threads); });
}

void interpolate_backward(const InterpolateBackward& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, threads); });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
