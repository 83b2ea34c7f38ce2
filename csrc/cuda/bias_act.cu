// Bias, activation, gain and clamp on CUDA: packets on their way from memory to memory, see samples_plan.h.
#include "../bias_act.h"
#include "math.cuh"
#include "samples.cuh"

namespace fastgan::cuda {
namespace {

// The biases of a packet that begins with number `at` of the tensor.
template <typename A, int kPacket>
__device__ __forceinline__ void load_biases(const BiasAct& a, int64_t at, A (&b)[kPacket]) {
  const A* biases = static_cast<const A*>(a.b);
  int64_t c = biases == nullptr ? 0 : a.shape.channel_of(at);
  if (biases == nullptr || a.shape.inner % kPacket == 0) {
    const A one = biases == nullptr ? A(0) : biases[c];
#pragma unroll
    for (int i = 0; i < kPacket; ++i) b[i] = one;
    return;
  }
  int64_t left = a.shape.inner == 1 ? 1 : a.shape.inner - at % a.shape.inner;
#pragma unroll
  for (int i = 0; i < kPacket; ++i) {
    b[i] = biases[c];
    if (--left == 0) {
      left = a.shape.inner;
      c = c + 1 == a.shape.channels ? 0 : c + 1;
    }
  }
}

template <typename T, BiasActPart part>
__global__ void __launch_bounds__(kSampleThreads, kLeastBlocks<T>)
    bias_act_kernel(const BiasAct a, const Samples s, const BiasActNumbers<Accumulator<T>> by) {
  using A = Accumulator<T>;
  const bool all_aligned = aligned(a.x) && aligned(a.dy) && aligned(a.ddx) && aligned(a.out);
  const auto one = [&](auto packet, const Share&, int64_t at, auto& tensors) {
    A b[packet];
    load_biases(a, at, b);
    auto& x = tensors[0];
    dispatch_activation(a.act, [&](auto act) {
#pragma unroll
      for (int j = 0; j < packet; ++j) {
        A dy = 0, ddx = 0;
        if constexpr (has_dy(part)) dy = widen(tensors[1].x[j]);
        if constexpr (has_ddx(part)) ddx = widen(tensors[2].x[j]);
        x.x[j] = narrow<T>(bias_act_number<act(), part, Math>(A(widen(x.x[j])) + b[j], dy, ddx, by));
      }
    });
    x.store(static_cast<T*>(a.out) + at);
  };
  if constexpr (has_ddx(part)) {
    for_each_packet<T>(s, {a.x, a.dy, a.ddx}, all_aligned, one);
  } else if constexpr (has_dy(part)) {
    for_each_packet<T>(s, {a.x, a.dy}, all_aligned, one);
  } else {
    for_each_packet<T>(s, {a.x}, all_aligned, one);
  }
}

template <typename T, BiasActPart part>
void launch_part(const BiasAct& a, cudaStream_t stream) {
  using A = Accumulator<T>;
  const Samples s = cut_samples(1, a.shape.numbers(), 0);
  const BiasActNumbers<A> by = bias_act_numbers<A>(a, widen(narrow<T>(static_cast<A>(a.clamp))));
  if (s.size != 0) launch_samples(bias_act_kernel<T, part>, s, stream, a, s, by);
}

template <typename T>
void run(const BiasAct& a, cudaStream_t stream) {
  switch (a.part) {
    case BiasActPart::value:
      return launch_part<T, BiasActPart::value>(a, stream);
    case BiasActPart::slope:
      return launch_part<T, BiasActPart::slope>(a, stream);
    case BiasActPart::slope_at_value:
      return launch_part<T, BiasActPart::slope_at_value>(a, stream);
    case BiasActPart::curvature:
      return launch_part<T, BiasActPart::curvature>(a, stream);
    case BiasActPart::curvature_at_value:
      return launch_part<T, BiasActPart::curvature_at_value>(a, stream);
  }
}

}  // namespace

void bias_act(const BiasAct& arguments, cudaStream_t stream) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, stream); });
}

}  // namespace fastgan::cuda
