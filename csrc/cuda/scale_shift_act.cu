// Scale, shift and activation on CUDA.
//
//   fwd     y, where the channels are outermost (rows) or innermost (columns)
//   bwd     dx, and the sums of every part of the positions
//   finish  the sums of all parts
#include "channels.cuh"
#include "math.cuh"

namespace fastgan::cuda {
namespace {

template <Activation act, typename A>
__device__ __forceinline__ A forward(A x, const Coefficients<A>& c, A alpha) {
  return activation<act, Math>(c.scale * (x - c.center) + c.shift, alpha);
}
template <Activation act, typename A>
__device__ __forceinline__ A backward(A centered, A dy, const Coefficients<A>& c, A alpha) {
  return chained<act, Math>(c.scale * centered + c.shift, dy, alpha);
}
template <typename A>
__device__ __forceinline__ A gradient(A centered, A g, const Coefficients<A>& c) {
  return c.scale * g + (c.linear * centered + c.constant);
}

// --- forward ---

template <typename T>
__global__ void __launch_bounds__(kSampleThreads, kLeastBlocks<T>)
    scale_shift_act_fwd_rows_kernel(const ScaleShiftAct a, const Samples s) {
  using A = Accumulator<T>;
  const A alpha = static_cast<A>(a.affine.alpha);
  for_each_packet<T>(s, {a.x}, aligned(a.x) && aligned(a.y), [&](auto packet, const Share& share, int64_t at, auto& x) {
    const auto c = coefficients<A>(a.affine, share.sample / a.shape.channels, share.sample % a.shape.channels);
    dispatch_activation(a.affine.act, [&](auto act) {
#pragma unroll
      for (int i = 0; i < packet; ++i) x[0].x[i] = narrow<T>(forward<act()>(widen(x[0].x[i]), c, alpha));
    });
    x[0].store(static_cast<T*>(a.y) + at);
  });
}

template <typename T, int kPacket>
__global__ void __launch_bounds__(kColumnThreads, kLeastBlocks<T>)
    scale_shift_act_fwd_columns_kernel(const ScaleShiftAct a, const Columns columns) {
  using A = Accumulator<T>;
  const A alpha = static_cast<A>(a.affine.alpha);
  const ColumnShare share = share_of(columns, blockIdx.x, threadIdx.x);
  if (share.end == 0) return;
  Coefficients<A> c[kPacket];
#pragma unroll
  for (int i = 0; i < kPacket; ++i) c[i] = coefficients<A>(a.affine, share.sample, share.channel + i);
  for_each_row_packet<T, kPacket>(columns, share, {a.x}, [&](int64_t at, auto& x) {
    dispatch_activation(a.affine.act, [&](auto act) {
#pragma unroll
      for (int i = 0; i < kPacket; ++i) x[0].x[i] = narrow<T>(forward<act()>(widen(x[0].x[i]), c[i], alpha));
    });
    x[0].store(static_cast<T*>(a.y) + at);
  });
}

// --- backward ---

// As kLeastBlocks: the most that spill nothing, with two sums of float64 to every thread.
template <typename T>
constexpr int kSumBlocks = sizeof(T) == 8 ? 1 : (sizeof(T) == 4 ? 3 : 4);

template <typename T>
__global__ void __launch_bounds__(kSampleThreads, kSumBlocks<T>)
    scale_shift_act_bwd_rows_kernel(const ScaleShiftActBackward a, const Samples s, const Parts parts) {
  using A = Accumulator<T>;
  const A alpha = static_cast<A>(a.affine.alpha);
  const bool all_aligned = aligned(a.x) && aligned(a.dy) && aligned(a.dx);
  double dshift = 0, dscale = 0;
  for_each_packet<T>(s, {a.x, a.dy}, all_aligned, [&](auto packet, const Share& share, int64_t at, auto& tensors) {
    const auto c = coefficients<A>(a.affine, share.sample / a.shape.channels, share.sample % a.shape.channels, a.linear,
                                   a.constant);
    A shifts = 0, scales = 0;
    auto &x = tensors[0], &dy = tensors[1];
    dispatch_activation(a.affine.act, [&](auto act) {
#pragma unroll
      for (int i = 0; i < packet; ++i) {
        const A centered = widen(x.x[i]) - c.center, g = backward<act()>(centered, A(widen(dy.x[i])), c, alpha);
        shifts += g;
        scales += g * centered;
        x.x[i] = narrow<T>(gradient(centered, g, c));
      }
    });
    dshift += double(shifts);
    dscale += double(scales);
    if (a.dx != nullptr) x.store(static_cast<T*>(a.dx) + at);
  });
  if (a.dscale == nullptr) return;
  const bool block = s.team == kSampleThreads;
  dshift = block ? block_sum<kSampleThreads>(dshift) : warp_sum(dshift, s.team);
  dscale = block ? block_sum<kSampleThreads>(dscale) : warp_sum(dscale, s.team);
  const Share share = share_of(s, blockIdx.x, threadIdx.x, 1);
  if (!share.first || share.sample >= s.count) return;
  double* to = static_cast<double*>(a.workspace) +
               parts.at(share.sample / a.shape.channels, share.sample % a.shape.channels, share.part);
  to[0] = dshift;
  to[parts.second] = dscale;
}

template <typename T, int kPacket>
__global__ void __launch_bounds__(kColumnThreads, kLeastBlocks<T>)
    scale_shift_act_bwd_columns_kernel(const ScaleShiftActBackward a, const Columns columns, const Parts parts) {
  using A = Accumulator<T>;
  const A alpha = static_cast<A>(a.affine.alpha);
  const ColumnShare share = share_of(columns, blockIdx.x, threadIdx.x);
  Coefficients<A> c[kPacket];
#pragma unroll
  for (int i = 0; i < kPacket; ++i) {
    c[i] = share.end == 0 ? Coefficients<A>{}
                          : coefficients<A>(a.affine, share.sample, share.channel + i, a.linear, a.constant);
  }
  // A thread has few rows: their sums are exact enough as they are.
  A shifts[kPacket] = {}, scales[kPacket] = {};
  for_each_row_packet<T, kPacket>(columns, share, {a.x, a.dy}, [&](int64_t at, auto& tensors) {
    auto &x = tensors[0], &dy = tensors[1];
    dispatch_activation(a.affine.act, [&](auto act) {
#pragma unroll
      for (int i = 0; i < kPacket; ++i) {
        const A centered = widen(x.x[i]) - c[i].center, g = backward<act()>(centered, A(widen(dy.x[i])), c[i], alpha);
        shifts[i] += g;
        scales[i] += g * centered;
        x.x[i] = narrow<T>(gradient(centered, g, c[i]));
      }
    });
    if (a.dx != nullptr) x.store(static_cast<T*>(a.dx) + at);
  });
  if (a.dscale == nullptr) return;
  double* to = static_cast<double*>(a.workspace) + parts.at(share.sample, share.channel, share.part);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    double sums[kPacket];
#pragma unroll
    for (int i = 0; i < kPacket; ++i) sums[i] = double(k == 0 ? shifts[i] : scales[i]);
    column_sum(sums, columns, share);
    if (share.row != 0 || share.end == 0) continue;
#pragma unroll
    for (int i = 0; i < kPacket; ++i) to[k * parts.second + i * parts.channel_step] = sums[i];
  }
}

// A warp to every channel, or to every channel of every sample.
template <typename A>
__global__ void __launch_bounds__(kSampleThreads)
    scale_shift_act_finish_kernel(const ScaleShiftActBackward a, const Parts parts) {
  const int64_t index = warp_index(), groups = a.per_sample ? parts.count : 1;
  if (index >= groups * parts.channels) return;
  const int64_t samples = a.per_sample ? 1 : parts.count;
  const int64_t first = index / parts.channels, channel = index % parts.channels;
  const int lane = threadIdx.x % kWarp;
  double dshift = 0, dscale = 0;
  for (int64_t i = lane; i < samples * parts.parts; i += kWarp) {
    const double* from =
        static_cast<const double*>(a.workspace) + parts.at(first + i / parts.parts, channel, i % parts.parts);
    dshift += from[0];
    dscale += from[parts.second];
  }
  dshift = warp_sum(dshift);
  dscale = warp_sum(dscale);
  if (lane != 0) return;
  static_cast<A*>(a.dshift)[index] = static_cast<A>(dshift);
  static_cast<A*>(a.dscale)[index] = static_cast<A>(dscale);
}

// --- launches ---

template <typename T>
void run(const ScaleShiftAct& a, cudaStream_t stream) {
  if (!a.shape.last) {
    const Samples s = cut_samples(a.shape.count * a.shape.channels, a.shape.positions, 0);
    return launch_samples(scale_shift_act_fwd_rows_kernel<T>, s, stream, a, s);
  }
  with_columns<T>(a.shape, aligned(a.x) && aligned(a.y), [&](const Columns& c, auto packet) {
    launch_columns(scale_shift_act_fwd_columns_kernel<T, packet>, c, stream, a, c);
  });
}

template <typename T>
void run(const ScaleShiftActBackward& a, cudaStream_t stream) {
  const bool all_aligned = aligned(a.x) && aligned(a.dy) && aligned(a.dx);
  Parts parts{};
  if (a.shape.last) {
    with_columns<T>(a.shape, all_aligned, [&](const Columns& c, auto packet) {
      parts = parts_of(c);
      launch_columns(scale_shift_act_bwd_columns_kernel<T, packet>, c, stream, a, c, parts);
    });
  } else {
    const int64_t rows = a.shape.count * a.shape.channels;
    const Samples s = cut_samples(rows, a.shape.positions, a.dscale == nullptr ? 0 : kSampleBlocks);
    parts = parts_of(s, a.shape.count, a.shape.channels);
    launch_samples(scale_shift_act_bwd_rows_kernel<T>, s, stream, a, s, parts);
  }
  const int64_t sums = (a.per_sample ? a.shape.count : 1) * a.shape.channels;
  if (a.dscale == nullptr || sums == 0) return;
  launch(scale_shift_act_finish_kernel<Accumulator<T>>, warp_blocks(sums), kSampleThreads, 0, stream, a, parts);
}

}  // namespace

int64_t channel_workspace(int64_t count, int64_t channels, int64_t positions, bool last) {
  // Where packets cannot be loaded whole, a part is of fewer positions: enough for either.
  const int64_t parts = last ? cut_columns(count, channels, positions, 1).parts
                             : cut_samples(count * channels, positions, kSampleBlocks).parts;
  return count * parts * 2 * channels;
}

void scale_shift_act(const ScaleShiftAct& arguments, cudaStream_t stream) {
  dispatch(arguments.shape.dtype, [&](auto t) { run<decltype(t)>(arguments, stream); });
}

void scale_shift_act_backward(const ScaleShiftActBackward& arguments, cudaStream_t stream) {
  dispatch(arguments.shape.dtype, [&](auto t) { run<decltype(t)>(arguments, stream); });
}

}  // namespace fastgan::cuda
