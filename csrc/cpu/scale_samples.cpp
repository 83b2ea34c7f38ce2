// Every sample times a number of its own, on the CPU: also the gradient of a norm.
#include "samples.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

template <typename T>
void run(const ScaleSamples& a, int threads) {
  using A = typename Accumulator<T>::type;
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  for_each_tile(a.count, a.size, threads, [&](int64_t n, int64_t, int64_t begin, int64_t numbers) {
    const A c = coefficient<A>(a.c, a.norms, a.factor, n);
    A buffer[kChunk], out_buffer[kChunk];
    for (int64_t start = begin; start < begin + numbers; start += kChunk) {
      const int64_t size = begin + numbers - start < kChunk ? begin + numbers - start : kChunk;
      const A* from = widen(x + start, buffer, size);
      A* to = landing(y + start, out_buffer);
#pragma omp simd
      for (int64_t j = 0; j < size; ++j) to[j] = c * from[j];
      narrow(to, y + start, size);
    }
  });
}

}  // namespace

void scale_samples(const ScaleSamples& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, threads); });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
