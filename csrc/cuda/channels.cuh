// What the kernels on tensors with channels share: rows of packets of channels, sums of columns, sums of parts.
#pragma once

#include "columns_plan.h"
#include "reduce.cuh"
#include "samples.cuh"

namespace fastgan::cuda {

// Calls f(columns, packet size) with packets of 16 bytes where they are aligned in all the tensors, else of one number.
template <typename T, typename F>
void with_columns(const ChannelLayout& s, bool all_aligned, F f) {
  constexpr int kPacket = 16 / sizeof(T);
  const Columns columns = cut_columns(s.count, s.channels, s.positions, all_aligned ? kPacket : 1);
  if (columns.packet == kPacket) {
    f(columns, std::integral_constant<int, kPacket>{});
  } else {
    f(columns, std::integral_constant<int, 1>{});
  }
}

// Rows of a packet of channels on their way from memory; zeros beyond the end of the share.
template <typename T, int kPacket>
struct RowPackets {
  Packet<T, kPacket> of[kAtOnce<T>];

  __device__ __forceinline__ void load(const void* numbers, const Columns& c, const ColumnShare& share, int64_t at) {
    const T* x = static_cast<const T*>(numbers) + (share.sample * c.positions) * c.channels + share.channel;
#pragma unroll
    for (int i = 0; i < kAtOnce<T>; ++i) {
      of[i] = {};
      if (at + i * share.step < share.end) of[i].load(x + (at + i * share.step) * c.channels);
    }
  }
  __device__ __forceinline__ void store(void* numbers, const Columns& c, const ColumnShare& share, int64_t at) const {
    T* y = static_cast<T*>(numbers) + (share.sample * c.positions) * c.channels + share.channel;
#pragma unroll
    for (int i = 0; i < kAtOnce<T>; ++i) {
      if (at + i * share.step < share.end) of[i].store(y + (at + i * share.step) * c.channels);
    }
  }
};

// Calls f(at, packets of the tensors there) for this thread's rows, as for_each_packet does.
template <typename T, int kPacket, int kTensors, typename F>
__device__ __forceinline__ void for_each_row_packet(const Columns& c, const ColumnShare& share,
                                                    const void* const (&tensors)[kTensors], F f) {
  const int64_t first = share.sample * c.positions * c.channels + share.channel;
  Packet<T, kPacket> next[kTensors];
  load_packets(next, tensors, first + share.begin * c.channels, share.begin < share.end);
#pragma unroll 1
  for (int64_t row = share.begin; row < share.end; row += share.step) {
    Packet<T, kPacket> now[kTensors];
#pragma unroll
    for (int t = 0; t < kTensors; ++t) now[t] = next[t];
    load_packets(next, tensors, first + (row + share.step) * c.channels, row + share.step < share.end);
    f(first + row * c.channels, now);
  }
}

// The sums over the rows of a block of every thread's packet; the first row's threads get them.
template <int kPacket>
__device__ __forceinline__ void column_sum(double (&numbers)[kPacket], const Columns& c, const ColumnShare& share) {
  __shared__ double all[kColumnThreads * kPacket];
  __syncthreads();  // an earlier sum may still be read
#pragma unroll
  for (int i = 0; i < kPacket; ++i) all[(share.row * kPacket + i) * c.lanes + share.lane] = numbers[i];
  __syncthreads();
  if (share.row != 0) return;
#pragma unroll
  for (int i = 0; i < kPacket; ++i) {
    double sum = 0;
    for (int row = 0; row < c.rows(); ++row) sum += all[(row * kPacket + i) * c.lanes + share.lane];
    numbers[i] = sum;
  }
}

template <typename Kernel, typename... Arguments>
void launch_columns(Kernel kernel, const Columns& c, cudaStream_t stream, const Arguments&... arguments) {
  if (c.all_blocks() == 0) return;
  launch(kernel, blocks_of(c.all_blocks()), kColumnThreads, 0, stream, arguments...);
}

// The values of a warp, each of which takes one channel's sums.
__device__ __forceinline__ int64_t warp_index() {
  return blockIdx.x * int64_t{kSampleThreads / kWarp} + threadIdx.x / kWarp;
}
inline dim3 warp_blocks(int64_t warps) {
  constexpr int64_t kWarps = kSampleThreads / kWarp;
  return blocks_of((warps + kWarps - 1) / kWarps);
}

}  // namespace fastgan::cuda
