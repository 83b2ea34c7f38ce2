// Norm or squared norm of every sample on the CPU: tiles are summed by themselves, then in their order.
#include <cmath>

#include "samples.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

constexpr int64_t kLanes = 32;  // sums kept next to each other, for the vector unit

// Of a chunk in the type that is accumulated in, of chunks in double.
template <typename A, typename T>
double sum_of_squares(const T* x, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  double sum = 0;
  for (int64_t j = whole; j < n; ++j) {
    const double number = load(x[j]);
    sum += number * number;
  }
  if (whole == 0) return sum;
  double totals[kLanes] = {};
  for (int64_t start = 0; start < whole; start += kChunk) {
    const int64_t size = whole - start < kChunk ? whole - start : kChunk;
    A sums[kLanes] = {}, buffer[kChunk];
    const A* xs = widen(x + start, buffer, size);
    for (int64_t j = 0; j < size; j += kLanes) {
#pragma omp simd
      for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += xs[j + lane] * xs[j + lane];
    }
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) totals[lane] += sums[lane];
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += totals[lane];
  return sum;
}

template <typename T>
void run(const SampleNorm& a, int threads) {
  using A = typename Accumulator<T>::type;
  const int64_t tiles = sample_tiles(a.size);
  const T* x = static_cast<const T*>(a.x);
  A* norms = static_cast<A*>(a.norms);
  double* sums = static_cast<double*>(a.workspace);
  auto finish = [&](double sum, int64_t n) { norms[n] = static_cast<A>(a.squared ? sum : std::sqrt(sum)); };
  for_each_tile(a.count, a.size, threads, [&](int64_t n, int64_t tile, int64_t start, int64_t size) {
    const double sum = sum_of_squares<A>(x + start, size);
    if (tiles == 1) {
      finish(sum, n);
    } else {
      sums[n * tiles + tile] = sum;
    }
  });
  for (int64_t n = 0; tiles > 1 && n < a.count; ++n) {
    double sum = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) sum += sums[n * tiles + tile];
    finish(sum, n);
  }
}

}  // namespace

int64_t sample_norm_workspace(int64_t count, int64_t size) {
  const int64_t tiles = sample_tiles(size);
  return tiles == 1 ? 0 : count * tiles;
}

void sample_norm(const SampleNorm& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, threads); });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
