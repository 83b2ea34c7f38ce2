// Mean and variance of every channel on the CPU, in one pass: of parts by themselves, then of all of them. And
// normalization as a whole, which adds the two passes of scale_shift_act.
#include <math.h>

#include "channels.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {

int64_t channel_workspace(int64_t count, int64_t channels, int64_t positions, bool last);
void channel_statistics(const ChannelStatistics&, int);
void scale_shift_act(const ScaleShiftAct&, int);
void scale_shift_act_backward(const ScaleShiftActBackward&, int);

namespace {

constexpr int64_t kLanes = 16;  // sums kept next to each other, for the vector unit

// Sums of the distances of some values to one of them, and of their squares.
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
      const Direct<T>* xs = widen(x + rows.begin + i * rows.stride, buffer, rows.channels * rows.inner);
      for (int64_t j = 0; j < rows.channels; ++j) center[j] += load(xs[j * rows.inner]) / static_cast<A>(few);
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
      const A about = center[(j - rows.first) * rows.inner];
      const Moments m = moments(about, to[j], to[channels + j], rows.positions * rows.inner);
      to[j] = m.mean;
      to[channels + j] = m.squares;
    }
  });
}

constexpr int64_t kBlock = 64;  // channels that are taken at a time
constexpr int64_t blocks_of(int64_t channels) { return (channels + kBlock - 1) / kBlock; }

// Parts that follow each other, all but the last of each sample with `size` values of a channel.
struct Parts {
  int64_t count, of_sample, size, positions;
  double numbers(int64_t i) const { return static_cast<double>(lesser(size, positions - i % of_sample * size)); }
};

// Of some parts, for a block of channels: to mean and variance number `at` and those after it.
template <typename A>
void combine(const ChannelStatistics& a, const Parts& parts, const double* from, int64_t block, int64_t at) {
  const int64_t channels = a.shape.channels;
  double means[kBlock] = {}, squares[kBlock] = {}, all = 0;
  for (int64_t i = 0; i < parts.count; ++i) all += parts.numbers(i);
  for (int64_t i = 0; i < parts.count; ++i) {
    const double share = parts.numbers(i) / all;
#pragma omp simd
    for (int64_t j = 0; j < block; ++j) means[j] += share * from[i * 2 * channels + j];
  }
  for (int64_t i = 0; i < parts.count; ++i) {
    const double share = parts.numbers(i);
#pragma omp simd
    for (int64_t j = 0; j < block; ++j) {
      const double distance = from[i * 2 * channels + j] - means[j];
      squares[j] += from[(i * 2 + 1) * channels + j] + share * distance * distance;
    }
  }
  for (int64_t j = 0; j < block; ++j) {
    static_cast<A*>(a.mean)[at + j] = static_cast<A>(means[j]);
    static_cast<A*>(a.var)[at + j] = static_cast<A>(squares[j] / all);
  }
}

template <typename T>
void run(const ChannelStatistics& a, int threads) {
  const ChannelLayout& s = a.shape;
  const int64_t channels = s.channels;
  Parts parts{part_count(s), part_count(s), part_positions(s) * s.inner, s.positions * s.inner};
  if (!a.per_sample) parts.count *= s.count;
  part_moments<T>(a, threads);
  const int64_t groups = a.per_sample ? a.shape.count : 1, blocks = blocks_of(channels);
#pragma omp parallel for schedule(static) num_threads(threads) if (groups * parts.count * channels > kSmall)
  for (int64_t i = 0; i < groups * blocks; ++i) {
    const int64_t n = i / blocks, first = i % blocks * kBlock;
    const double* from = static_cast<const double*>(a.workspace) + n * parts.count * 2 * channels + first;
    combine<typename Accumulator<T>::type>(a, parts, from, lesser(kBlock, channels - first), n * channels + first);
  }
}

// --- normalization as a whole ---

constexpr int64_t kTables = 6;  // of up to N C values, that a backward keeps

// Values per channel, [C] or [N, C].
template <typename A>
struct Table {
  A* at;
  int64_t stride;
  A* row(int64_t n) const { return at + n * stride; }
  operator PerChannel() const { return {at, stride}; }
};

// 1 / sqrt(var + eps), weight times that, and the affine map to which they belong.
template <typename A>
struct Normalizer {
  Table<A> rstd, scale;
  Affine affine;

  // Memory of 2 N C values.
  template <typename Arguments>
  Normalizer(const Arguments& a, A* memory) {
    const int64_t count = a.shape.count, channels = a.shape.channels, of_statistics = a.per_sample ? channels : 0;
    const A *var = static_cast<const A*>(a.var), *weight = static_cast<const A*>(a.weight.at);
    const A eps = static_cast<A>(a.eps);
    rstd = {memory, of_statistics};
    for (int64_t i = 0; i < (a.per_sample ? count * channels : channels); ++i) memory[i] = 1 / root(var[i] + eps);
    scale = rstd;
    if (weight != nullptr) {
      scale = {memory + count * channels, a.per_sample || a.weight.stride != 0 ? channels : 0};
      for (int64_t n = 0; n < (scale.stride == 0 ? 1 : count); ++n) {
        const A *from = weight + n * a.weight.stride, *by = rstd.row(n);
        A* to = scale.row(n);
        for (int64_t c = 0; c < channels; ++c) to[c] = from[c] * by[c];
      }
    }
    affine = {scale, a.bias, {a.mean, of_statistics}, a.act, a.alpha};
  }
  static float root(float x) { return sqrtf(x); }
  static double root(double x) { return sqrt(x); }
};

template <typename A>
void normalize(const NormAct& a, int threads) {
  channel_statistics({a.x, a.mean, a.var, a.workspace, a.shape, a.per_sample}, threads);
  scale_shift_act({a.x, a.y, a.shape, Normalizer<A>(a, static_cast<A*>(a.workspace)).affine}, threads);
}

// What the sums over positions, of g (x - mean) and of g, come to: gradients, and what dx takes of them. They are
// summed over the batch where the gradient is [C], or the statistics are.
template <typename A>
void distribute(const NormActBackward& a, const Normalizer<A>& by, const A* products, const A* sums, Table<A> linear,
                Table<A> constant) {
  const int64_t channels = a.shape.channels, samples = a.per_sample ? 1 : a.shape.count;
  const double share = -1 / static_cast<double>(samples * a.shape.positions * a.shape.inner);
  const Table<A> dweight{static_cast<A*>(a.dweight), a.weight.stride}, dbias{static_cast<A*>(a.dbias), a.bias.stride};
  for (int64_t first = 0; first < channels; first += kBlock) {
    const int64_t block = lesser(kBlock, channels - first);
    double of[4][kBlock] = {};  // over the batch: of dweight, dbias, linear, constant
    const auto store = [&](const Table<A>& table, int64_t n, const double* from) {
      A* to = table.row(n) + first;
      for (int64_t j = 0; j < block; ++j) to[j] = static_cast<A>(from[j]);
    };
    for (int64_t n = 0; n < a.shape.count; ++n) {
      const A *rstd = by.rstd.row(n) + first, *scale = by.scale.row(n) + first;
      const A *from = products + n * channels + first, *from_sums = sums + n * channels + first;
      double now[4][kBlock];
#pragma omp simd
      for (int64_t j = 0; j < block; ++j) {
        const double sum = from_sums[j], product = static_cast<double>(from[j]) * rstd[j], part = share * scale[j];
        now[0][j] = product, now[1][j] = sum, now[2][j] = part * rstd[j] * product, now[3][j] = part * sum;
      }
      for (int k = 0; k < 4; ++k) {
#pragma omp simd
        for (int64_t j = 0; j < block; ++j) of[k][j] += now[k][j];
      }
      if (dweight.at != nullptr && dweight.stride != 0) store(dweight, n, now[0]);
      if (dbias.at != nullptr && dbias.stride != 0) store(dbias, n, now[1]);
      if (a.per_sample) store(linear, n, now[2]), store(constant, n, now[3]);
    }
    if (dweight.at != nullptr && dweight.stride == 0) store(dweight, 0, of[0]);
    if (dbias.at != nullptr && dbias.stride == 0) store(dbias, 0, of[1]);
    if (!a.per_sample) store(linear, 0, of[2]), store(constant, 0, of[3]);
  }
}

template <typename A>
void differentiate(const NormActBackward& a, int threads) {
  const int64_t channels = a.shape.channels, all = a.shape.count * channels, stride = a.per_sample ? channels : 0;
  A* memory = static_cast<A*>(a.workspace);
  const Normalizer<A> by(a, memory);
  A *products = memory + 2 * all, *sums = memory + 3 * all;
  const Table<A> linear{memory + 4 * all, stride}, constant{memory + 5 * all, stride};
  void* of_parts = static_cast<double*>(a.workspace) + kTables * all;
  scale_shift_act_backward({a.dy, a.x, nullptr, products, sums, of_parts, true, a.shape, by.affine, {}, {}}, threads);
  distribute(a, by, products, sums, linear, constant);
  if (a.dx == nullptr) return;
  scale_shift_act_backward({a.dy, a.x, a.dx, nullptr, nullptr, nullptr, true, a.shape, by.affine, linear, constant},
                           threads);
}

template <typename F>
void dispatch_exact(DType dtype, F f) {
  dtype == DType::float64 ? f(double{}) : f(float{});
}

}  // namespace

void channel_statistics(const ChannelStatistics& arguments, int threads) {
  ChannelStatistics a = arguments;
  if (!a.per_sample) a.shape = merged(a.shape);
  dispatch(a.shape.dtype, [&](auto t) { run<decltype(t)>(a, threads); });
}

void norm_act(const NormAct& arguments, int threads) {
  dispatch_exact(arguments.shape.dtype, [&](auto a) { normalize<decltype(a)>(arguments, threads); });
}

void norm_act_backward(const NormActBackward& arguments, int threads) {
  NormActBackward batch = arguments;
  if (!batch.per_sample) batch.shape = merged(batch.shape, batch.weight, batch.bias);
  dispatch_exact(batch.shape.dtype, [&](auto a) { differentiate<decltype(a)>(batch, threads); });
}

int64_t norm_act_workspace(int64_t count, int64_t channels, int64_t positions, bool last) {
  return kTables * count * channels + channel_workspace(count, channels, positions, last);
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
