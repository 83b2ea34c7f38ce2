// Norm or squared norm of every sample on CUDA: see samples_plan.h for how the samples are cut.
//
//   fwd     a team's sum of its share; the norm, where a sample has one part
//   finish  the norm, from the sums of the parts
#include "reduce.cuh"
#include "samples.cuh"

namespace fastgan::cuda {
namespace {

template <typename A>
__device__ __forceinline__ void store_norm(const SampleNorm& a, int64_t sample, double sum) {
  static_cast<A*>(a.norms)[sample] = static_cast<A>(a.squared ? sum : sqrt(sum));
}

template <typename T>
__global__ void __launch_bounds__(kSampleThreads) sample_norm_fwd_kernel(const SampleNorm a, const Samples s) {
  using A = Accumulator<T>;
  double sum = 0;
  for_each_batch<T>(s, aligned(a.x), [&](auto packet, const Share& share, int64_t at) {
    Packets<T, packet> x;
    x.load(a.x, s, share, at);
    A squares = 0;
#pragma unroll
    for (int i = 0; i < kAtOnce<T> * packet; ++i) {
      const A value = widen(x.of[i / packet].x[i % packet]);
      squares += value * value;
    }
    sum += double(squares);
  });
  sum = s.team == kSampleThreads ? block_sum<kSampleThreads>(sum) : warp_sum(sum, s.team);
  const Share share = share_of(s, blockIdx.x, threadIdx.x, 1);
  if (!share.first || share.sample >= s.count) return;
  if (s.parts == 1) {
    store_norm<A>(a, share.sample, sum);
  } else {
    static_cast<double*>(a.workspace)[share.sample * s.parts + share.part] = sum;
  }
}

// A warp to each sample.
template <typename A>
__global__ void __launch_bounds__(kSampleThreads) sample_norm_finish_kernel(const SampleNorm a, const Samples s) {
  const int64_t sample = blockIdx.x * int64_t{kSampleThreads / kWarp} + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  double sum = 0;
  for (int64_t part = lane; sample < s.count && part < s.parts; part += kWarp) {
    sum += static_cast<const double*>(a.workspace)[sample * s.parts + part];
  }
  sum = warp_sum(sum);
  if (lane == 0 && sample < s.count) store_norm<A>(a, sample, sum);
}

template <typename T>
void run(const SampleNorm& a, cudaStream_t stream) {
  const Samples s = cut_samples(a.count, a.size, kSampleBlocks);
  launch_samples(sample_norm_fwd_kernel<T>, s, stream, a, s);
  if (s.parts == 1 || s.count == 0) return;
  constexpr int kWarps = kSampleThreads / kWarp;
  const dim3 blocks = blocks_of((s.count + kWarps - 1) / kWarps);
  launch(sample_norm_finish_kernel<Accumulator<T>>, blocks, kSampleThreads, 0, stream, a, s);
}

}  // namespace

int64_t sample_norm_workspace(int64_t count, int64_t size) {
  const Samples s = cut_samples(count, size, kSampleBlocks);
  return s.parts == 1 ? 0 : count * s.parts;
}

void sample_norm(const SampleNorm& arguments, cudaStream_t stream) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, stream); });
}

}  // namespace fastgan::cuda
