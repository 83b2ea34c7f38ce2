// Sums over all dimensions but that of the channels on CUDA: see channels_plan.h for how a tensor is cut.
//
//   fwd     a block's sums of the channels of its span, in its rows
//   finish  the sums of the parts, in a fixed order
#include "channels_plan.h"
#include "launch.cuh"
#include "packet.cuh"
#include "reduce.cuh"

namespace fastgan::cuda {
namespace {

constexpr int kChannelWarps = kChannelThreads / kWarp;
constexpr int kFewRows = 16;  // rows that are added before they go into double

// Adds the packets of a column from row to row_end to the totals.
template <typename T, int kPacket>
__device__ __forceinline__ void add_rows(const T* column, const Channels& shape, const ChannelShare& share,
                                         double (&totals)[kPacket]) {
  using A = Accumulator<T>;
  for (int64_t first = share.row; first < share.row_end; first += kFewRows * share.row_step) {
    A few[kPacket] = {};
#pragma unroll 4
    for (int i = 0; i < kFewRows; ++i) {
      const int64_t row = first + i * share.row_step;
      Packet<T, kPacket> x = {};
      if (row < share.row_end) x.load(column + row * shape.row());
#pragma unroll
      for (int j = 0; j < kPacket; ++j) few[j] += widen(x.x[j]);
    }
#pragma unroll
    for (int j = 0; j < kPacket; ++j) totals[j] += double(few[j]);
  }
}

// Adds the packets of a channel that is longer than the threads reach.
template <typename T, int kPacket>
__device__ __forceinline__ void add_long_rows(const T* span, const Channels& shape, const ChannelShare& share,
                                              double (&totals)[kPacket]) {
  using A = Accumulator<T>;
  for (int64_t row = share.row; row < share.row_end; row += share.row_step) {
    A few[kPacket] = {};
#pragma unroll 4
    for (int64_t at = share.begin; at < share.columns; at += share.step) {
      Packet<T, kPacket> x;
      x.load(span + row * shape.row() + at);
#pragma unroll
      for (int j = 0; j < kPacket; ++j) few[j] += widen(x.x[j]);
    }
#pragma unroll
    for (int j = 0; j < kPacket; ++j) totals[j] += double(few[j]);
  }
}

// Four blocks: left alone, ptxas spills for a sixth.
template <typename T, int kPacket>
__global__ void __launch_bounds__(kChannelThreads, 4)
    sum_channels_fwd_kernel(const SumChannels a, const ChannelParts p) {
  const ChannelShare share = channel_share(a.shape, p, blockIdx.x, threadIdx.x, kPacket);
  const T* span = static_cast<const T*>(a.x) + share.channel * a.shape.inner;
  double* sums = static_cast<double*>(a.workspace) + share.part * a.shape.channels + share.channel;
  double totals[kPacket] = {};
  if (share.columns > share.step) {
    add_long_rows<T>(span, a.shape, share, totals);
  } else if (share.begin < share.columns) {
    add_rows<T>(span + share.begin, a.shape, share, totals);
  }
  if (share.channels == 1) {
    double sum = 0;
#pragma unroll
    for (int j = 0; j < kPacket; ++j) sum += totals[j];
    sum = block_sum<kChannelThreads>(sum);
    if (threadIdx.x == 0) sums[0] = sum;
    return;
  }
  __shared__ double columns[kChannelThreads * kPacket];  // [rows at once, lanes * packet]
#pragma unroll
  for (int j = 0; j < kPacket; ++j) columns[threadIdx.x * kPacket + j] = totals[j];
  __syncthreads();
  const int inner = static_cast<int>(a.shape.inner), width = p.lanes * kPacket,
            channels = static_cast<int>(share.channels);
  const int numbers = p.rows_at_once() * inner;  // of a channel
  const bool by_warp = numbers > kWarp;
  const int team = by_warp ? kWarp : 1, lane = threadIdx.x % team;
  for (int first = 0; first < channels; first += kChannelThreads / team) {
    const int c = first + static_cast<int>(threadIdx.x) / team;
    double sum = 0;
    for (int i = lane; c < channels && i < numbers; i += team)
      sum += columns[i / inner * width + c * inner + i % inner];
    if (by_warp) sum = warp_sum(sum);
    if (lane == 0 && c < channels) sums[c] = sum;
  }
}

// A warp takes every eighth part of 32 channels.
template <typename A>
__global__ void __launch_bounds__(kChannelThreads)
    sum_channels_finish_kernel(const SumChannels a, const int64_t parts) {
  __shared__ double sums[kChannelWarps][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t channels = a.shape.channels, c = blockIdx.x * int64_t{kWarp} + lane;
  double sum = 0;
  if (c < channels) {
#pragma unroll 8
    for (int64_t part = warp; part < parts; part += kChannelWarps) {
      sum += static_cast<const double*>(a.workspace)[part * channels + c];
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || c >= channels) return;
  double whole = 0;
#pragma unroll
  for (int i = 0; i < kChannelWarps; ++i) whole += sums[i][lane];
  static_cast<A*>(a.sums)[c] = static_cast<A>(whole);
}

template <typename T, int kPacket>
void run(const SumChannels& a, const ChannelParts& p, cudaStream_t stream) {
  launch(sum_channels_fwd_kernel<T, kPacket>, blocks_of(p.blocks()), kChannelThreads, 0, stream, a, p);
  const dim3 blocks = blocks_of((a.shape.channels + kWarp - 1) / kWarp);
  launch(sum_channels_finish_kernel<Accumulator<T>>, blocks, kChannelThreads, 0, stream, a, p.parts);
}

}  // namespace

// Enough for packets and for single values.
int64_t sum_channels_workspace(int64_t outer, int64_t channels, int64_t inner) {
  int64_t parts = 0;
  for (int packet = 1; packet <= 8; packet *= 2) {
    const ChannelParts p = cut_channels(Channels{outer, channels, inner}, packet);
    parts = p.parts > parts ? p.parts : parts;
  }
  return parts * channels;
}

void sum_channels(const SumChannels& a, cudaStream_t stream) {
  if (a.shape.channels == 0) return;
  dispatch(a.dtype, [&](auto t) {
    using T = decltype(t);
    constexpr int kPacket = 16 / sizeof(T);
    const ChannelParts p = cut_channels(a.shape, kPacket);
    if (aligned(a.x) && p.whole_packets) {
      run<T, kPacket>(a, p, stream);
    } else {
      run<T, 1>(a, cut_channels(a.shape, 1), stream);
    }
  });
}

}  // namespace fastgan::cuda
