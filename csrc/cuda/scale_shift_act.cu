// Scale, shift and activation on CUDA.
//
//   fwd     y, where the channels lie outermost (rows) or innermost (columns)
//   bwd     dx, and the sums of every part of the positions
//   finish  the sums of all parts
#include "channels.cuh"
#include "math.cuh"

namespace fastgan::cuda {
namespace {

// Calls f(index, coefficients of its channel) for every number of a batch, once for each kind of activation.
template <int kNumbers, typename F>
__device__ __forceinline__ void with_activation(const Affine& affine, F f) {
  dispatch_activation(affine.act, [&](auto act) {
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) f(act, i);
  });
}

template <Activation act, typename A>
__device__ __forceinline__ A forward(A x, const Coefficients<A>& c, A alpha) {
  return activation<act, Math>(c.scale * (x - c.center) + c.shift, alpha);
}
template <Activation act, typename A>
__device__ __forceinline__ A backward(A centered, A dy, const Coefficients<A>& c, A alpha) {
  return slope<act, Math>(c.scale * centered + c.shift, alpha) * dy;
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
  for_each_batch<T>(s, aligned(a.x) && aligned(a.y), [&](auto packet, const Share& share, int64_t at) {
    Packets<T, packet> x;
    x.load(a.x, s, share, at);
    const auto c = coefficients<A>(a.affine, share.sample / a.shape.channels, share.sample % a.shape.channels);
    with_activation<kAtOnce<T> * packet>(a.affine, [&](auto act, int i) {
      T& number = x.of[i / packet].x[i % packet];
      number = narrow<T>(forward<act>(widen(number), c, alpha));
    });
    x.store(a.y, s, share, at);
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
  for (int64_t at = share.begin; at < share.end; at += kAtOnce<T> * share.step) {
    RowPackets<T, kPacket> x;
    x.load(a.x, columns, share, at);
    with_activation<kAtOnce<T> * kPacket>(a.affine, [&](auto act, int i) {
      T& number = x.of[i / kPacket].x[i % kPacket];
      number = narrow<T>(forward<act>(widen(number), c[i % kPacket], alpha));
    });
    x.store(a.y, columns, share, at);
  }
}

// --- backward ---

template <typename T>
__global__ void __launch_bounds__(kSampleThreads, kLeastBlocks<T>)
    scale_shift_act_bwd_rows_kernel(const ScaleShiftActBackward a, const Samples s, const Parts parts) {
  using A = Accumulator<T>;
  const A alpha = static_cast<A>(a.affine.alpha);
  const bool all_aligned = aligned(a.x) && aligned(a.dy) && aligned(a.dx);
  double dshift = 0, dscale = 0;
  for_each_batch<T>(s, all_aligned, [&](auto packet, const Share& share, int64_t at) {
    Packets<T, packet> x, dy;
    x.load(a.x, s, share, at);
    dy.load(a.dy, s, share, at);
    const auto c = coefficients<A>(a.affine, share.sample / a.shape.channels, share.sample % a.shape.channels, a.linear,
                                   a.constant);
    A shifts = 0, scales = 0;
    with_activation<kAtOnce<T> * packet>(a.affine, [&](auto act, int i) {
      T& number = x.of[i / packet].x[i % packet];
      const A centered = widen(number) - c.center;
      const A g = backward<act>(centered, widen(dy.of[i / packet].x[i % packet]), c, alpha);
      // Beyond the end dy is 0, and so is g unless the slope is infinite or not a number.
      const bool inside = at + (i / packet) * share.step < share.end;
      shifts += inside ? g : A(0);
      scales += inside ? g * centered : A(0);
      number = narrow<T>(gradient(centered, g, c));
    });
    dshift += double(shifts);
    dscale += double(scales);
    if (a.dx != nullptr) x.store(a.dx, s, share, at);
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
  for (int64_t at = share.begin; at < share.end; at += kAtOnce<T> * share.step) {
    RowPackets<T, kPacket> x, dy;
    x.load(a.x, columns, share, at);
    dy.load(a.dy, columns, share, at);
    with_activation<kAtOnce<T> * kPacket>(a.affine, [&](auto act, int i) {
      T& number = x.of[i / kPacket].x[i % kPacket];
      const auto& of = c[i % kPacket];
      const A centered = widen(number) - of.center;
      const A g = backward<act>(centered, widen(dy.of[i / kPacket].x[i % kPacket]), of, alpha);
      const bool inside = at + (i / kPacket) * share.step < share.end;
      shifts[i % kPacket] += inside ? g : A(0);
      scales[i % kPacket] += inside ? g * centered : A(0);
      number = narrow<T>(gradient(centered, g, of));
    });
    if (a.dx != nullptr) x.store(a.dx, columns, share, at);
  }
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

// A warp to every channel of every sample.
template <typename A>
__global__ void __launch_bounds__(kSampleThreads)
    scale_shift_act_finish_kernel(const ScaleShiftActBackward a, const Parts parts) {
  const int64_t index = warp_index();
  const int lane = threadIdx.x % kWarp;
  double dshift = 0, dscale = 0;
  for (int64_t part = lane; index < parts.count * parts.channels && part < parts.parts; part += kWarp) {
    const double* from =
        static_cast<const double*>(a.workspace) + parts.at(index / parts.channels, index % parts.channels, part);
    dshift += from[0];
    dscale += from[parts.second];
  }
  dshift = warp_sum(dshift);
  dscale = warp_sum(dscale);
  if (lane != 0 || index >= parts.count * parts.channels) return;
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
  const int64_t sums = a.shape.count * a.shape.channels;
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
