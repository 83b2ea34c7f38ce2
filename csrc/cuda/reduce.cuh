// Sums over the threads of a warp and of a block, in a fixed order.
#pragma once

#include <cuda_runtime.h>

namespace fastgan::cuda {

constexpr int kWarp = 32;

// The sum over each group of `size` neighbouring threads of a warp, a power of two; every thread gets the same bits.
template <typename A>
__device__ __forceinline__ A warp_sum(A x, int size = kWarp) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const A other = __shfl_xor_sync(0xffffffffu, x, offset);
    if (offset < size) x += other;
  }
  return x;
}

// The sum over a block; every thread of it calls and gets the sum.
template <int kThreads>
__device__ __forceinline__ double block_sum(double x) {
  __shared__ double sums[kThreads / kWarp];
  x = warp_sum(x);
  __syncthreads();  // an earlier sum may still be read
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = x;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kThreads / kWarp; ++i) sum += sums[i];
  return sum;
}

}  // namespace fastgan::cuda
