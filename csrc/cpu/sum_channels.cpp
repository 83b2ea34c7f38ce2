// Sums over all dimensions but that of the channels on the CPU.
//
// x is a matrix [outer, channels * inner]. Where a channel's values are few in a row, columns are summed, parts of the
// rows by themselves; else a thread takes all of a channel. The shape alone decides, so that the number of threads
// changes no bit. A few values are added in the type that is accumulated in, everything else in double.
#include "../channels.h"
#include "samples.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

constexpr int64_t kLanes = 32;      // sums kept next to each other, for the vector unit
constexpr int64_t kShortRun = 64;   // up to so many values of a channel are adjacent: columns are summed
constexpr int64_t kRows = 32;       // rows that are added before they go into double
constexpr int64_t kPartRows = 128;  // of a part, at least
constexpr int64_t kMostParts = 64;

struct Parts {
  int64_t count, rows;
};
Parts parts_of(int64_t outer) {
  int64_t count = outer / kPartRows;
  count = count < 1 ? 1 : (count > kMostParts ? kMostParts : count);
  const int64_t rows = (outer + count - 1) / count;
  return {rows == 0 ? 1 : (outer + rows - 1) / rows, rows};
}

// The sum of values of which many are adjacent: added in lanes, which are added up once.
template <typename A>
struct LongSum {
  double lanes[kLanes] = {}, rest = 0;

  template <typename T>
  void add(const T* x, int64_t n) {
    const int64_t whole = n / kLanes * kLanes;
    for (int64_t start = 0; start < whole; start += kChunk) {
      const int64_t size = whole - start < kChunk ? whole - start : kChunk;
      A some[kLanes] = {}, buffer[kChunk];
      const A* xs = widen(x + start, buffer, size);
      for (int64_t j = 0; j < size; j += kLanes) {
#pragma omp simd
        for (int64_t lane = 0; lane < kLanes; ++lane) some[lane] += xs[j + lane];
      }
#pragma omp simd
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += some[lane];
    }
    for (int64_t j = whole; j < n; ++j) rest += static_cast<double>(load(x[j]));
  }
  double total() const {
    double sum = rest;
    for (double lane : lanes) sum += lane;
    return sum;
  }
};

// sums[j] = the sum of column j over some rows of a matrix with `stride` values to a row; up to kChunk columns.
template <typename A, typename T>
void sum_columns(const T* x, int64_t rows, int64_t columns, int64_t stride, double* sums) {
  for (int64_t j = 0; j < columns; ++j) sums[j] = 0;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int64_t last = first + kRows < rows ? first + kRows : rows;
    A few[kChunk] = {}, buffer[kChunk];
    for (int64_t row = first; row < last; ++row) {
      const A* xs = widen(x + row * stride, buffer, columns);
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) few[j] += xs[j];
    }
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) sums[j] += few[j];
  }
}

template <typename T>
void run(const SumChannels& a, int threads) {
  using A = typename Accumulator<T>::type;
  const Channels& s = a.shape;
  const T* x = static_cast<const T*>(a.x);
  A* sums = static_cast<A*>(a.sums);
  const bool parallel = s.numbers() > kAlone;
  if (s.inner > kShortRun) {
#pragma omp parallel for schedule(static) num_threads(threads) if (parallel)
    for (int64_t c = 0; c < s.channels; ++c) {
      LongSum<A> sum;
      for (int64_t n = 0; n < s.outer; ++n) sum.add(x + n * s.row() + c * s.inner, s.inner);
      sums[c] = static_cast<A>(sum.total());
    }
    return;
  }
  const Parts parts = parts_of(s.outer);
  const int64_t blocks = (s.row() + kChunk - 1) / kChunk;
  double* partial = static_cast<double*>(a.workspace);  // [parts, row]
#pragma omp parallel for schedule(static) num_threads(threads) if (parallel)
  for (int64_t i = 0; i < parts.count * blocks; ++i) {
    const int64_t part = i / blocks, column = i % blocks * kChunk, row = part * parts.rows;
    const int64_t rows = s.outer - row < parts.rows ? s.outer - row : parts.rows;
    const int64_t columns = s.row() - column < kChunk ? s.row() - column : kChunk;
    sum_columns<A>(x + row * s.row() + column, rows, columns, s.row(), partial + part * s.row() + column);
  }
  for (int64_t c = 0; c < s.channels; ++c) {
    double sum = 0;
    for (int64_t part = 0; part < parts.count; ++part) {
      for (int64_t j = c * s.inner; j < (c + 1) * s.inner; ++j) sum += partial[part * s.row() + j];
    }
    sums[c] = static_cast<A>(sum);
  }
}

}  // namespace

int64_t sum_channels_workspace(int64_t outer, int64_t channels, int64_t inner) {
  return inner > kShortRun ? 0 : parts_of(outer).count * channels * inner;
}

void sum_channels(const SumChannels& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, threads); });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
