// Interpolates of two batches on CUDA, every sample with a number of its own.
#include "samples.cuh"

namespace fastgan::cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kSampleThreads) interpolate_samples_kernel(const Interpolate a, const Samples s) {
  using A = Accumulator<T>;
  const bool all_aligned = aligned(a.real) && aligned(a.fake) && aligned(a.y);
  for_each_batch<T>(s, all_aligned, [&](auto packet, const Share& share, int64_t at) {
    Packets<T, packet> real, fake;
    real.load(a.real, s, share, at);
    fake.load(a.fake, s, share, at);
    const A eps = static_cast<const A*>(a.eps)[share.sample], rest = 1 - eps;
#pragma unroll
    for (int i = 0; i < kAtOnce<T> * packet; ++i) {
      T& number = real.of[i / packet].x[i % packet];
      number = narrow<T>(eps * widen(number) + rest * widen(fake.of[i / packet].x[i % packet]));
    }
    real.store(a.y, s, share, at);
  });
}

template <typename T>
__global__ void __launch_bounds__(kSampleThreads)
    interpolate_samples_backward_kernel(const InterpolateBackward a, const Samples s) {
  using A = Accumulator<T>;
  const bool all_aligned = aligned(a.dy) && aligned(a.dreal) && aligned(a.dfake);
  for_each_batch<T>(s, all_aligned, [&](auto packet, const Share& share, int64_t at) {
    Packets<T, packet> real, fake;
    real.load(a.dy, s, share, at);
    const A eps = static_cast<const A*>(a.eps)[share.sample], rest = 1 - eps;
#pragma unroll
    for (int i = 0; i < kAtOnce<T> * packet; ++i) {
      T& number = real.of[i / packet].x[i % packet];
      const A grad = widen(number);
      number = narrow<T>(eps * grad);
      fake.of[i / packet].x[i % packet] = narrow<T>(rest * grad);
    }
    real.store(a.dreal, s, share, at);
    fake.store(a.dfake, s, share, at);
  });
}

template <typename T>
void run(const Interpolate& a, cudaStream_t stream) {
  const Samples s = cut_samples(a.count, a.size, 0);
  launch_samples(interpolate_samples_kernel<T>, s, stream, a, s);
}

template <typename T>
void run(const InterpolateBackward& a, cudaStream_t stream) {
  const Samples s = cut_samples(a.count, a.size, 0);
  launch_samples(interpolate_samples_backward_kernel<T>, s, stream, a, s);
}

}  // namespace

void interpolate(const Interpolate& arguments, cudaStream_t stream) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, stream); });
}

void interpolate_backward(const InterpolateBackward& arguments, cudaStream_t stream) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, stream); });
}

}  // namespace fastgan::cuda
