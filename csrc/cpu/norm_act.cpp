// Mean and variance of every channel on the CPU, in one pass: of parts by themselves, then of all of them.
#include "channels.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

constexpr int64_t kLanes = 16;  // sums kept side by side, for the vector unit

// Sums of the distances of some numbers to one of them, and of their squares.
struct Distances {
  double sum, squares;

  template <typename A>
  void add(const A* x, int64_t size, double center) {
    int64_t j = 0;
    if (size >= 4 * kLanes) {
      double sums[kLanes] = {}, of_squares[kLanes] = {};
      for (; j + kLanes <= size; j += kLanes) {
#pragma omp simd
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          const double distance = x[j + lane] - center;
          sums[lane] += distance;
          of_squares[lane] += distance * distance;
        }
      }
      for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[lane], squares += of_squares[lane];
    }
    double rest = 0, rest_squares = 0;
#pragma omp simd reduction(+ : rest, rest_squares)
    for (int64_t k = j; k < size; ++k) {
      const double distance = x[k] - center;
      rest += distance;
      rest_squares += distance * distance;
    }
    sum += rest;
    squares += rest_squares;
  }
};

template <typename T>
void part_moments(const ChannelStatistics& a, int threads) {
  using A = typename Accumulator<T>::type;
  const T* x = static_cast<const T*>(a.x);
  double* workspace = static_cast<double*>(a.workspace);
  const int64_t channels = a.shape.channels;
  if (!a.shape.last) {
    for_each_run(a.shape, threads, [&](const Run& run) {
      Distances distances[kRow];
      for (int64_t i = 0; i < run.count; ++i) distances[i] = {};
      A buffer[kRow];
      for (int64_t at = run.begin; at < run.end; at += kRow) {
        const int64_t size = lesser(kRow, run.end - at);
        const A* xs = widen(x + at, buffer, size);
        for_each_channel(a.shape, run, size, [&](int64_t i, int64_t, int64_t, int64_t first, int64_t numbers) {
          distances[i].add(xs + first, numbers, load(x[run.begin + i * a.shape.positions]));
        });
      }
      for_each_channel(a.shape, run, 0, [&](int64_t i, int64_t n, int64_t c, int64_t, int64_t) {
        const double center = load(x[run.begin + i * a.shape.positions]);
        const Moments m = moments(center, distances[i].sum, distances[i].squares, a.shape.positions);
        workspace[n * 2 * channels + c] = m.mean;
        workspace[(n * 2 + 1) * channels + c] = m.squares;
      });
    });
    return;
  }
  for_each_rows(a.shape, threads, [&](const Rows& rows) {
    Direct<T> buffer[kRow];
    A center[kRow];  // of every channel, the mean of its first number in some rows
    const int64_t few = lesser(kRowsAtOnce, (rows.end - rows.begin + rows.stride - 1) / rows.stride);
    for (int64_t j = 0; j < rows.channels; ++j) center[j] = 0;
    for (int64_t i = 0; i < few; ++i) {
      const Direct<T>* xs = widen(x + rows.begin + i * rows.stride, buffer, rows.channels);
#pragma omp simd
      for (int64_t j = 0; j < rows.channels; ++j) center[j] += load(xs[j]) / static_cast<A>(few);
    }
    repeat(center, rows);
    RowSums<A> sums(rows.width);
    for_each_row(rows, [&](int64_t i, int64_t at, int64_t size) {
      const Direct<T>* xs = widen(x + at, buffer, size);
#pragma omp simd
      for (int64_t j = 0; j < size; ++j) {
        const A distance = load(xs[j]) - center[j];
        sums.some[0][j] += distance;
        sums.some[1][j] += distance * distance;
      }
      if (i % kRowsAtOnce == kRowsAtOnce - 1) sums.flush(rows.width);
    });
    double* to = workspace + (rows.n * part_count(a.shape) + rows.part) * 2 * channels;
    sums.store(to, rows, channels);
    for (int64_t j = rows.first; j < rows.first + rows.channels; ++j) {
      const Moments m = moments(center[j - rows.first], to[j], to[channels + j], rows.positions);
      to[j] = m.mean;
      to[channels + j] = m.squares;
    }
  });
}

// Of some parts that follow each other, for a block of channels.
template <typename A>
void combine(const ChannelStatistics& a, int64_t n, int64_t samples, int64_t first, int64_t block) {
  const int64_t channels = a.shape.channels, parts = part_count(a.shape), size = part_positions(a.shape);
  const double* from = static_cast<const double*>(a.workspace) + n * parts * 2 * channels + first;
  double means[kRow], squares[kRow];
  for (int64_t j = 0; j < block; ++j) means[j] = 0, squares[j] = 0;
  const double all = static_cast<double>(samples * a.shape.positions);
  for (int64_t i = 0; i < samples * parts; ++i) {
    const double share = static_cast<double>(lesser(size, a.shape.positions - i % parts * size)) / all;
#pragma omp simd
    for (int64_t j = 0; j < block; ++j) means[j] += share * from[i * 2 * channels + j];
  }
  for (int64_t i = 0; i < samples * parts; ++i) {
    const double share = static_cast<double>(lesser(size, a.shape.positions - i % parts * size));
#pragma omp simd
    for (int64_t j = 0; j < block; ++j) {
      const double distance = from[i * 2 * channels + j] - means[j];
      squares[j] += from[(i * 2 + 1) * channels + j] + share * distance * distance;
    }
  }
  const int64_t at = (a.per_sample ? n * channels : 0) + first;
  for (int64_t j = 0; j < block; ++j) {
    static_cast<A*>(a.mean)[at + j] = static_cast<A>(means[j]);
    static_cast<A*>(a.var)[at + j] = static_cast<A>(squares[j] / all);
  }
}

template <typename T>
void run(const ChannelStatistics& a, int threads) {
  part_moments<T>(a, threads);
  const int64_t channels = a.shape.channels, groups = a.per_sample ? a.shape.count : 1;
  const int64_t samples = a.per_sample ? 1 : a.shape.count, block = 64, blocks = (channels + block - 1) / block;
  const int64_t numbers = a.shape.count * part_count(a.shape) * channels;
#pragma omp parallel for schedule(static) num_threads(threads) if (numbers > kSmall)
  for (int64_t i = 0; i < groups * blocks; ++i) {
    const int64_t first = i % blocks * block;
    combine<typename Accumulator<T>::type>(a, i / blocks, samples, first, lesser(block, channels - first));
  }
}

}  // namespace

void channel_statistics(const ChannelStatistics& arguments, int threads) {
  ChannelStatistics a = arguments;
  if (!a.per_sample) a.shape = merged(a.shape);
  dispatch(a.shape.dtype, [&](auto t) { run<decltype(t)>(a, threads); });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
