// Minibatch standard deviation on the CPU: a part of a slice at a time, of all samples of a group.
#include "../minibatch_stddev.h"

#include <cmath>

#include "samples.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

constexpr int64_t kPart = MinibatchStddev::kPart;

// Calls f(place in x, place in y, where the run starts in the part, its length) for runs of a part that are stored side
// by side.
template <typename F>
void for_each_run(const MinibatchStddev& a, int64_t n, int64_t f, int64_t begin, int64_t size, F each) {
  const int64_t most = a.last ? a.slice_channels() : size;
  for (int64_t j = 0; j < size;) {
    const int64_t left = a.last ? most - (begin + j) % most : most, run = left < size - j ? left : size - j;
    each(a.in_x(n, f, begin + j), a.in_y(n, f, begin + j), j, run);
    j += run;
  }
}

// The mean over the group, and the standard deviation, of `size` values of slice f from `begin` on.
template <typename T, typename A>
void statistics(const MinibatchStddev& a, int64_t m, int64_t f, int64_t begin, int64_t size, A* mean, A* deviation) {
  const T* x = static_cast<const T*>(a.x);
  const auto samples = [&](auto add) {
    for (int64_t g = 0; g < a.group; ++g) {
      for_each_run(a, g * a.groups() + m, f, begin, size, [&](int64_t from, int64_t, int64_t j, int64_t run) {
        A buffer[kPart];
        const A* xs = widen(x + from, buffer, run);
        add(xs, j, run);
      });
    }
  };
  const A share = A(1) / static_cast<A>(a.group), eps = static_cast<A>(a.eps);
  for (int64_t j = 0; j < size; ++j) mean[j] = deviation[j] = 0;
  samples([&](const A* xs, int64_t j, int64_t run) {
#pragma omp simd
    for (int64_t k = 0; k < run; ++k) mean[j + k] += xs[k];
  });
  for (int64_t j = 0; j < size; ++j) mean[j] *= share;
  samples([&](const A* xs, int64_t j, int64_t run) {
#pragma omp simd
    for (int64_t k = 0; k < run; ++k) deviation[j + k] += (xs[k] - mean[j + k]) * (xs[k] - mean[j + k]);
  });
#pragma omp simd
  for (int64_t j = 0; j < size; ++j) deviation[j] = std::sqrt(deviation[j] * share + eps);
}

// Calls f(group, slice, part, where it begins, its size) for every part, in parallel.
template <typename F>
void for_each_part(const MinibatchStddev& a, int threads, F each) {
  const int64_t parts = a.parts(), all = a.groups() * a.features * parts;
#pragma omp parallel for schedule(static) num_threads(threads) if (a.count * a.channels * a.positions > kAlone)
  for (int64_t i = 0; i < all; ++i) {
    const int64_t part = i % parts, slice = i / parts, begin = part * kPart;
    each(slice / a.features, slice % a.features, i, begin, a.slice() - begin < kPart ? a.slice() - begin : kPart);
  }
}

template <typename T>
void forward(const MinibatchStddev& a, int threads) {
  using A = typename Accumulator<T>::type;
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.out);
  double* sums = static_cast<double*>(a.workspace);  // [groups, features, parts]
  for_each_part(a, threads, [&](int64_t m, int64_t f, int64_t i, int64_t begin, int64_t size) {
    A mean[kPart], deviation[kPart];
    statistics<T>(a, m, f, begin, size, mean, deviation);
    double sum = 0;
    for (int64_t j = 0; j < size; ++j) sum += static_cast<double>(deviation[j]);
    sums[i] = sum;
    for (int64_t g = 0; g < a.group; ++g) {
      for_each_run(a, g * a.groups() + m, f, begin, size, [&](int64_t from, int64_t to, int64_t, int64_t run) {
        for (int64_t k = 0; k < run; ++k) y[to + k] = x[from + k];
      });
    }
  });
  for (int64_t slice = 0; slice < a.groups() * a.features; ++slice) {
    double sum = 0;
    for (int64_t part = 0; part < a.parts(); ++part) sum += sums[slice * a.parts() + part];
    T statistic;
    store(static_cast<A>(sum / static_cast<double>(a.slice())), &statistic);
    for (int64_t g = 0; g < a.group; ++g) {
      const int64_t n = g * a.groups() + slice / a.features, f = slice % a.features;
      for (int64_t p = 0; p < a.positions; ++p) y[a.of_statistic(n, f, p)] = statistic;
    }
  }
}

template <typename T>
void backward(const MinibatchStddev& a, int threads) {
  using A = typename Accumulator<T>::type;
  const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
  T* dx = static_cast<T*>(a.out);
  double* slopes = static_cast<double*>(a.workspace);  // [groups, features]
  for (int64_t slice = 0; slice < a.groups() * a.features; ++slice) {
    double sum = 0;
    for (int64_t g = 0; g < a.group; ++g) {
      const int64_t n = g * a.groups() + slice / a.features, f = slice % a.features;
      for (int64_t p = 0; p < a.positions; ++p) sum += static_cast<double>(load(dy[a.of_statistic(n, f, p)]));
    }
    slopes[slice] = sum / (static_cast<double>(a.group) * static_cast<double>(a.slice()));
  }
  for_each_part(a, threads, [&](int64_t m, int64_t f, int64_t, int64_t begin, int64_t size) {
    A mean[kPart], deviation[kPart];
    statistics<T>(a, m, f, begin, size, mean, deviation);
    const A slope = static_cast<A>(slopes[m * a.features + f]);
    for (int64_t g = 0; g < a.group; ++g) {
      for_each_run(a, g * a.groups() + m, f, begin, size, [&](int64_t from, int64_t to, int64_t j, int64_t run) {
        A x_buffer[kPart], dy_buffer[kPart], results[kPart];
        const A *xs = widen(x + from, x_buffer, run), *dys = widen(dy + to, dy_buffer, run);
#pragma omp simd
        for (int64_t k = 0; k < run; ++k) {
          results[k] = dys[k] + slope * ((xs[k] - mean[j + k]) / deviation[j + k]);
        }
        narrow(results, dx + from, run);
      });
    }
  });
}

}  // namespace

int64_t minibatch_stddev_workspace(int64_t count, int64_t channels, int64_t positions, int64_t group,
                                   int64_t features) {
  MinibatchStddev a{};
  a.count = count, a.channels = channels, a.positions = positions, a.group = group, a.features = features;
  return a.groups() * features * (a.parts() > 1 ? a.parts() : 1);
}

void minibatch_stddev(const MinibatchStddev& arguments, int threads) {
  if (arguments.positions == 0) return;
  dispatch(arguments.dtype, [&](auto t) {
    using T = decltype(t);
    arguments.dy == nullptr ? forward<T>(arguments, threads) : backward<T>(arguments, threads);
  });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
