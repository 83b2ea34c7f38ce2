// Every sample times a number of its own, on CUDA: also the gradient of a norm.
#include "samples.cuh"

namespace fastgan::cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kSampleThreads) scale_samples_kernel(const ScaleSamples a, const Samples s) {
  using A = Accumulator<T>;
  for_each_batch<T>(s, aligned(a.x) && aligned(a.y), [&](auto packet, const Share& share, int64_t at) {
    Packets<T, packet> x;
    x.load(a.x, s, share, at);
    const A c = coefficient<A>(a.c, a.norms, a.factor, share.sample);
#pragma unroll
    for (int i = 0; i < kAtOnce<T> * packet; ++i) {
      T& number = x.of[i / packet].x[i % packet];
      number = narrow<T>(c * widen(number));
    }
    x.store(a.y, s, share, at);
  });
}

template <typename T>
void run(const ScaleSamples& a, cudaStream_t stream) {
  const Samples s = cut_samples(a.count, a.size, 0);
  launch_samples(scale_samples_kernel<T>, s, stream, a, s);
}

}  // namespace

void scale_samples(const ScaleSamples& arguments, cudaStream_t stream) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, stream); });
}

}  // namespace fastgan::cuda
