// What the kernels of spectral norm share: the layer's scratch, the width of their loads, sums over parts and columns.
#pragma once

#include "packet.cuh"
#include "reduce.cuh"
#include "spectral_norm_plan.h"

namespace fastgan::cuda {

template <typename A>
struct Scratch {
  double *part_sums, *column_sums;
  A *t, *p, *shares;
  int64_t stride;  // of the parts' shares
  __device__ Scratch(const Chunk& chunk, const SpectralNormLayer& l) {
    A* start = static_cast<A*>(chunk.workspace) + l.scratch;
    part_sums = reinterpret_cast<double*>(start + kPartSums);
    column_sums = reinterpret_cast<double*>(start + kColumnSums);
    t = start + kVectors;
    p = t + padded(l.rows);
    shares = p + padded(l.cols);
    stride = padded(l.cols);
  }
};

template <int kBlockThreads>
__device__ __forceinline__ double total(const double* sums, int count) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kBlockThreads) sum += sums[i];
  return block_sum<kBlockThreads>(sum);
}

template <int kBlockThreads>
__device__ __forceinline__ double total_of_columns(const SpectralNormLayer& l, const double* column_sums) {
  const int64_t blocks = ceil_div(l.cols, kSumColumns);
  return total<kBlockThreads>(column_sums, static_cast<int>(blocks < kSumBlocks ? blocks : kSumBlocks));
}

// max(|x|, eps) from |x|^2. A NaN stays one: the comparison keeps it.
__device__ __forceinline__ double divisor(double square, double eps) {
  const double length = sqrt(square);
  return length < eps ? eps : length;
}

}  // namespace fastgan::cuda
