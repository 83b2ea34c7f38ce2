// Minibatch standard deviation: groups of samples, slices of channels, and where their values are.
#pragma once

#include <cstdint>

#include "dtype.h"

#ifdef __CUDACC__
#define FASTGAN_PLACES __host__ __device__ constexpr
#else
#define FASTGAN_PLACES constexpr
#endif

namespace fastgan {

// Forward (dy null): out is y [count, channels + features, positions]: x, and after its channels the mean over a slice
// of sqrt(variance over the group + eps). Backward: out is dx, of dy, which has y's shape.
//
// Sample g M + m is in group m of the M = count / group groups; slice f has channels / features channels.
struct MinibatchStddev {
  const void* dy;
  const void* x;
  void* out;
  void* workspace;  // double [minibatch_stddev_workspace]
  int64_t count, channels, positions, group, features;
  bool last;  // both [count, positions, channels]
  double eps;
  DType dtype;

  FASTGAN_PLACES int64_t groups() const { return count / group; }
  FASTGAN_PLACES int64_t slice_channels() const { return channels / features; }
  FASTGAN_PLACES int64_t slice() const { return slice_channels() * positions; }
  FASTGAN_PLACES int64_t wide() const { return channels + features; }
  FASTGAN_PLACES int64_t parts() const { return (slice() + kPart - 1) / kPart; }
  // Where value j of slice f is in sample n of x and of y, in the order in which the slice is stored.
  FASTGAN_PLACES int64_t in_x(int64_t n, int64_t f, int64_t j) const {
    if (!last) return n * channels * positions + f * slice() + j;
    const int64_t c = slice_channels();
    return (n * positions + j / c) * channels + f * c + j % c;
  }
  FASTGAN_PLACES int64_t in_y(int64_t n, int64_t f, int64_t j) const {
    if (!last) return n * wide() * positions + f * slice() + j;
    const int64_t c = slice_channels();
    return (n * positions + j / c) * wide() + f * c + j % c;
  }
  // Where the statistic of slice f is at a position of sample n of y.
  FASTGAN_PLACES int64_t of_statistic(int64_t n, int64_t f, int64_t position) const {
    return last ? (n * positions + position) * wide() + channels + f
                : (n * wide() + channels + f) * positions + position;
  }

  static constexpr int64_t kPart = 1024;  // values of a slice that are summed by themselves
};

}  // namespace fastgan
