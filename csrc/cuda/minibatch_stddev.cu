// Minibatch standard deviation on CUDA: a block takes a part of a slice, a thread some of its values in all samples.
//
//   fwd     y's copy of x, and the sum of a part's standard deviations
//   finish  the statistic of a slice, parts summed in a fixed order, at all of its places
//   slope   the sum of a slice's gradients
//   bwd     dx
#include "../minibatch_stddev.h"
#include "launch.cuh"
#include "packet.cuh"
#include "reduce.cuh"

namespace fastgan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPart = MinibatchStddev::kPart;

// The part of a slice that a block takes.
struct Share {
  int64_t m, f, begin, end;
};
__device__ __forceinline__ Share share_of(const MinibatchStddev& a, int64_t block) {
  const int64_t parts = a.parts(), slice = block / parts, begin = block % parts * kPart;
  return {slice / a.features, slice % a.features, begin, a.slice() - begin < kPart ? a.slice() : begin + kPart};
}

// The mean over the group, and the standard deviation, of value j of a slice.
template <typename T>
__device__ __forceinline__ void statistics(const MinibatchStddev& a, const Share& s, int64_t j, Accumulator<T>& mean,
                                           Accumulator<T>& deviation) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(a.x) + a.in_x(s.m, s.f, j);
  const int64_t step = a.groups() * a.channels * a.positions;
  const A share = A(1) / static_cast<A>(a.group);
  A sum = 0, squares = 0;
  for (int64_t g = 0; g < a.group; ++g) sum += widen(x[g * step]);
  mean = sum * share;
  for (int64_t g = 0; g < a.group; ++g) {
    const A distance = widen(x[g * step]) - mean;
    squares += distance * distance;
  }
  deviation = sqrt(squares * share + static_cast<A>(a.eps));
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) minibatch_stddev_fwd_kernel(const MinibatchStddev a) {
  const Share s = share_of(a, blockIdx.x);
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.out);
  double sum = 0;
  for (int64_t j = s.begin + threadIdx.x; j < s.end; j += kThreads) {
    Accumulator<T> mean, deviation;
    statistics<T>(a, s, j, mean, deviation);
    sum += static_cast<double>(deviation);
    const int64_t from = a.in_x(s.m, s.f, j), to = a.in_y(s.m, s.f, j), groups = a.groups();
    for (int64_t g = 0; g < a.group; ++g) {
      y[to + g * groups * a.wide() * a.positions] = x[from + g * groups * a.channels * a.positions];
    }
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) static_cast<double*>(a.workspace)[blockIdx.x] = sum;
}

// Calls f(place in y) for all places of a slice's statistic, one thread after the other.
template <typename F>
__device__ __forceinline__ void for_each_place(const MinibatchStddev& a, int64_t m, int64_t f, F each) {
  for (int64_t i = threadIdx.x; i < a.group * a.positions; i += kThreads) {
    each(a.of_statistic(i / a.positions * a.groups() + m, f, i % a.positions));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) minibatch_stddev_finish_kernel(const MinibatchStddev a) {
  const int64_t m = blockIdx.x / a.features, f = blockIdx.x % a.features, parts = a.parts();
  const double* sums = static_cast<const double*>(a.workspace) + blockIdx.x * parts;
  double sum = 0;
  for (int64_t part = threadIdx.x; part < parts; part += kThreads) sum += sums[part];
  sum = block_sum<kThreads>(sum);
  const T statistic = narrow<T>(static_cast<Accumulator<T>>(sum / static_cast<double>(a.slice())));
  for_each_place(a, m, f, [&](int64_t place) { static_cast<T*>(a.out)[place] = statistic; });
}

template <typename T>
__global__ void __launch_bounds__(kThreads) minibatch_stddev_slope_kernel(const MinibatchStddev a) {
  double sum = 0;
  for_each_place(a, blockIdx.x / a.features, blockIdx.x % a.features,
                 [&](int64_t place) { sum += static_cast<double>(widen(static_cast<const T*>(a.dy)[place])); });
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) {
    static_cast<double*>(a.workspace)[blockIdx.x] =
        sum / (static_cast<double>(a.group) * static_cast<double>(a.slice()));
  }
}

// Two blocks: left alone, ptxas spills for more.
template <typename T>
__global__ void __launch_bounds__(kThreads, 2) minibatch_stddev_bwd_kernel(const MinibatchStddev a) {
  using A = Accumulator<T>;
  const Share s = share_of(a, blockIdx.x);
  const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
  T* dx = static_cast<T*>(a.out);
  const A slope = static_cast<A>(static_cast<const double*>(a.workspace)[s.m * a.features + s.f]);
  for (int64_t j = s.begin + threadIdx.x; j < s.end; j += kThreads) {
    A mean, deviation;
    statistics<T>(a, s, j, mean, deviation);
    const int64_t step = a.groups() * a.channels * a.positions, wide_step = a.groups() * a.wide() * a.positions;
    int64_t from = a.in_x(s.m, s.f, j), to = a.in_y(s.m, s.f, j);
    const A factor = slope / deviation;
    for (int64_t g = 0; g < a.group; ++g, from += step, to += wide_step) {
      dx[from] = narrow<T>(A(widen(dy[to])) + factor * (A(widen(x[from])) - mean));
    }
  }
}

template <typename T>
void run(const MinibatchStddev& a, cudaStream_t stream) {
  const dim3 slices = blocks_of(a.groups() * a.features), parts = blocks_of(a.groups() * a.features * a.parts());
  if (a.dy == nullptr) {
    launch(minibatch_stddev_fwd_kernel<T>, parts, kThreads, 0, stream, a);
    launch(minibatch_stddev_finish_kernel<T>, slices, kThreads, 0, stream, a);
  } else {
    launch(minibatch_stddev_slope_kernel<T>, slices, kThreads, 0, stream, a);
    launch(minibatch_stddev_bwd_kernel<T>, parts, kThreads, 0, stream, a);
  }
}

}  // namespace

int64_t minibatch_stddev_workspace(int64_t count, int64_t channels, int64_t positions, int64_t group,
                                   int64_t features) {
  MinibatchStddev a{};
  a.count = count, a.channels = channels, a.positions = positions, a.group = group, a.features = features;
  return a.groups() * features * (a.parts() > 1 ? a.parts() : 1);
}

void minibatch_stddev(const MinibatchStddev& a, cudaStream_t stream) {
  if (a.count == 0 || a.positions == 0) return;
  dispatch(a.dtype, [&](auto t) { run<decltype(t)>(a, stream); });
}

}  // namespace fastgan::cuda
