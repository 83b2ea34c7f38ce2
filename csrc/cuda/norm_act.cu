// Mean and variance of every channel on CUDA.
//
//   fwd     moments of every part of the positions, where the channels are outermost (rows) or innermost (columns)
//   finish  of all parts
#include "channels.cuh"

namespace fastgan::cuda {
namespace {

// Sums of the distances of values to one of them, and of the squares of those: of a few values about their own mean
// in the type that is accumulated in, which loses nothing however far the one number is, then in double.
struct Distances {
  double sum = 0, squares = 0;

  template <int kNumbers, typename A, typename Inside>
  __device__ __forceinline__ void add(const A (&numbers)[kNumbers], double center, Inside inside) {
    A sum_of_numbers = 0;
    int count = 0;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      sum_of_numbers += inside(i) ? numbers[i] : A(0);
      count += inside(i);
    }
    const A mean = sum_of_numbers / static_cast<A>(count < 1 ? 1 : count);
    A rest = 0, rest_squares = 0;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      const A distance = inside(i) ? numbers[i] - mean : A(0);
      rest += distance;
      rest_squares += distance * distance;
    }
    const double offset = double(mean) - center;
    sum += double(rest) + count * offset;
    squares += double(rest_squares) + offset * (2 * double(rest) + count * offset);
  }
};

__device__ __forceinline__ void store_moments(const ChannelStatistics& a, const Parts& parts, int64_t at, int64_t part,
                                              double center, double sum, double squares) {
  const Moments m = moments(center, sum, squares, parts.size(part));
  double* to = static_cast<double*>(a.workspace) + at;
  to[0] = m.mean;
  to[parts.second] = m.squares;
}

template <typename T>
__global__ void __launch_bounds__(kSampleThreads, kLeastBlocks<T>)
    norm_act_fwd_rows_kernel(const ChannelStatistics a, const Samples s, const Parts parts) {
  using A = Accumulator<T>;
  const Share own = share_of(s, blockIdx.x, threadIdx.x, 1);
  const bool works = own.sample < s.count;
  const double center = works ? double(widen(static_cast<const T*>(a.x)[own.sample * s.size + own.part * s.part])) : 0;
  Distances distances;
  for_each_batch<T>(s, aligned(a.x), [&](auto packet, const Share& share, int64_t at) {
    Packets<T, packet> x;
    x.load(a.x, s, share, at);
    A numbers[kAtOnce<T> * packet];
#pragma unroll
    for (int i = 0; i < kAtOnce<T> * packet; ++i) numbers[i] = widen(x.of[i / packet].x[i % packet]);
    distances.add(numbers, center, [&](int i) { return at + (i / packet) * share.step < share.end; });
  });
  const bool block = s.team == kSampleThreads;
  const double sum = block ? block_sum<kSampleThreads>(distances.sum) : warp_sum(distances.sum, s.team);
  const double squares = block ? block_sum<kSampleThreads>(distances.squares) : warp_sum(distances.squares, s.team);
  if (!own.first || !works) return;
  const int64_t at = parts.at(own.sample / a.shape.channels, own.sample % a.shape.channels, own.part);
  store_moments(a, parts, at, own.part, center, sum, squares);
}

template <typename T, int kPacket>
__global__ void __launch_bounds__(kColumnThreads)
    norm_act_fwd_columns_kernel(const ChannelStatistics a, const Columns columns, const Parts parts) {
  using A = Accumulator<T>;
  const ColumnShare share = share_of(columns, blockIdx.x, threadIdx.x);
  double centers[kPacket] = {};
  Distances distances[kPacket];
  if (share.end > 0) {
    Packet<T, kPacket> first;
    first.load(static_cast<const T*>(a.x) +
               (share.sample * columns.positions + share.part * columns.part) * columns.channels + share.channel);
#pragma unroll
    for (int i = 0; i < kPacket; ++i) centers[i] = double(widen(first.x[i]));
  }
  for (int64_t at = share.begin; at < share.end; at += kAtOnce<T> * share.step) {
    RowPackets<T, kPacket> x;
    x.load(a.x, columns, share, at);
#pragma unroll
    for (int i = 0; i < kPacket; ++i) {
      A numbers[kAtOnce<T>];
#pragma unroll
      for (int j = 0; j < kAtOnce<T>; ++j) numbers[j] = widen(x.of[j].x[i]);
      distances[i].add(numbers, centers[i], [&](int j) { return at + j * share.step < share.end; });
    }
  }
  double sums[kPacket], squares[kPacket];
#pragma unroll
  for (int i = 0; i < kPacket; ++i) sums[i] = distances[i].sum, squares[i] = distances[i].squares;
  column_sum(sums, columns, share);
  column_sum(squares, columns, share);
  if (share.row != 0 || share.end == 0) return;
#pragma unroll
  for (int i = 0; i < kPacket; ++i) {
    const int64_t at = parts.at(share.sample, share.channel + i, share.part);
    store_moments(a, parts, at, share.part, centers[i], sums[i], squares[i]);
  }
}

// A warp to every channel, or to every channel of every sample.
template <typename A>
__global__ void __launch_bounds__(kSampleThreads) norm_act_finish_kernel(const ChannelStatistics a, const Parts parts) {
  const int64_t index = warp_index(), groups = a.per_sample ? parts.count : 1, samples = parts.count / groups;
  if (index >= groups * parts.channels) return;
  const int64_t first = index / parts.channels * samples, channel = index % parts.channels;
  const int lane = threadIdx.x % kWarp;
  const double all = static_cast<double>(samples * parts.positions);
  const double* workspace = static_cast<const double*>(a.workspace);
  double mean = 0, squares = 0;
  for (int64_t i = lane; i < samples * parts.parts; i += kWarp) {
    const int64_t part = i % parts.parts;
    const double* from = workspace + parts.at(first + i / parts.parts, channel, part);
    mean += static_cast<double>(parts.size(part)) * from[0];
  }
  mean = warp_sum(mean) / all;
  for (int64_t i = lane; i < samples * parts.parts; i += kWarp) {
    const int64_t part = i % parts.parts;
    const double* from = workspace + parts.at(first + i / parts.parts, channel, part);
    const double distance = from[0] - mean;
    squares += from[parts.second] + static_cast<double>(parts.size(part)) * distance * distance;
  }
  squares = warp_sum(squares);
  if (lane != 0) return;
  static_cast<A*>(a.mean)[index] = static_cast<A>(mean);
  static_cast<A*>(a.var)[index] = static_cast<A>(squares / all);
}

template <typename T>
void run(const ChannelStatistics& a, cudaStream_t stream) {
  Parts parts{};
  if (a.shape.last) {
    with_columns<T>(a.shape, aligned(a.x), [&](const Columns& c, auto packet) {
      parts = parts_of(c);
      launch_columns(norm_act_fwd_columns_kernel<T, packet>, c, stream, a, c, parts);
    });
  } else {
    const Samples s = cut_samples(a.shape.count * a.shape.channels, a.shape.positions, kSampleBlocks);
    parts = parts_of(s, a.shape.count, a.shape.channels);
    launch_samples(norm_act_fwd_rows_kernel<T>, s, stream, a, s, parts);
  }
  const int64_t groups = (a.per_sample ? a.shape.count : 1) * a.shape.channels;
  launch(norm_act_finish_kernel<Accumulator<T>>, warp_blocks(groups), kSampleThreads, 0, stream, a, parts);
}

}  // namespace

void channel_statistics(const ChannelStatistics& arguments, cudaStream_t stream) {
  if (arguments.shape.count * arguments.shape.channels * arguments.shape.positions == 0) return;
  dispatch(arguments.shape.dtype, [&](auto t) { run<decltype(t)>(arguments, stream); });
}

}  // namespace fastgan::cuda
