// Bias, activation and pixel shuffle on CUDA: a thread takes a packet of values of x that are adjacent, and their
// places in y, or where the shuffle is by two, two packets whose values alternate there.
#include "../pixel_shuffle_act.h"
#include "launch.cuh"
#include "math.cuh"
#include "packet.cuh"

namespace fastgan::cuda {
namespace {

constexpr int kThreads = 256;
// Values of x: two packets of them are 16 bytes of y.
template <typename T>
constexpr int kPacket = 8 / sizeof(T);

// z = x + bias becomes f(z), or f'(z) dy.
template <typename T, int kSize>
__device__ __forceinline__ void activate(const PixelShuffleAct& a, Packet<T, kSize>& x, const Packet<T, kSize>& dy,
                                         int64_t channel, int channel_step) {
  using A = Accumulator<T>;
  const A* bias = static_cast<const A*>(a.bias);
  const A alpha = static_cast<A>(a.alpha);
  dispatch_activation(a.act, [&](auto act) {
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const A z = widen(x.x[k]) + (bias == nullptr ? A(0) : bias[channel + k * channel_step]);
      const A result =
          a.dy == nullptr ? activation<act, Math>(z, alpha) : chained<act, Math>(z, A(widen(dy.x[k])), alpha);
      x.x[k] = narrow<T>(result);
    }
  });
}

// Channels outermost: one line of y's width and r lines of x.
template <typename T, int kSize, int kFactor>
__device__ __forceinline__ void shuffle_rows(const PixelShuffleAct& a, int64_t index) {
  const int64_t r = a.factor, packets = a.width / kSize, w = index % packets * kSize, line = index / packets;
  const int64_t h = line % a.height, i = line / a.height % r, c = line / a.height / r % a.channels;
  const int64_t n = line / a.height / r / a.channels;
  const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
  T* out = static_cast<T*>(a.out);
  const int64_t in_y = place_in_y(a, n, c, i, 0, h, w);
  Packet<T, kSize * kFactor> woven{};
  if (a.dy != nullptr) woven.load(dy + in_y);
#pragma unroll
  for (int j = 0; j < kFactor; ++j) {
    const int64_t in_x = place_in_x(a, n, c, i, j, h, w);
    Packet<T, kSize> numbers{}, upstream;
    if (a.x != nullptr) numbers.load(x + in_x);
#pragma unroll
    for (int k = 0; k < kSize; ++k) upstream.x[k] = woven.x[k * kFactor + j];
    activate(a, numbers, upstream, (c * r + i) * r + j, 0);
    if (a.dy != nullptr) {
      numbers.store(out + in_x);
    } else {
#pragma unroll
      for (int k = 0; k < kSize; ++k) woven.x[k * kFactor + j] = numbers.x[k];
    }
  }
  if (a.dy == nullptr) woven.store(out + in_y);
}

// Any shuffle: a number of y after the other, so that y's are adjacent; of x the cache holds what others read.
template <typename T>
__device__ __forceinline__ void shuffle_numbers(const PixelShuffleAct& a, int64_t index) {
  const int64_t r = a.factor;
  int64_t rest = index, c = 0;
  if (a.last) c = rest % a.channels, rest /= a.channels;
  const int64_t column = rest % (a.width * r), row = rest / (a.width * r) % (a.height * r);
  rest = rest / (a.width * r) / (a.height * r);
  if (!a.last) c = rest % a.channels, rest /= a.channels;
  const int64_t i = row % r, j = column % r, in_x = place_in_x(a, rest, c, i, j, row / r, column / r);
  Packet<T, 1> x{}, dy{};
  if (a.x != nullptr) x.x[0] = static_cast<const T*>(a.x)[in_x];
  if (a.dy != nullptr) dy.x[0] = static_cast<const T*>(a.dy)[index];
  activate(a, x, dy, (c * r + i) * r + j, 0);
  static_cast<T*>(a.out)[a.dy == nullptr ? index : in_x] = x.x[0];
}

// Four blocks: left alone, ptxas spills for a sixth.
template <typename T>
__global__ void __launch_bounds__(kThreads, 4)
    pixel_shuffle_act_kernel(const PixelShuffleAct a, int64_t count, bool pairs) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= count) return;
  if (pairs) {
    shuffle_rows<T, kPacket<T>, 2>(a, index);
  } else {
    shuffle_numbers<T>(a, index);
  }
}

template <typename T>
void run(const PixelShuffleAct& a, cudaStream_t stream) {
  const bool all_aligned = aligned(a.x) && aligned(a.dy) && aligned(a.out);
  const bool pairs = !a.last && a.factor == 2 && all_aligned && a.width % kPacket<T> == 0;
  const int64_t numbers = a.count * a.channels * a.height * a.width * a.factor * a.factor;
  const int64_t count = pairs ? numbers / (2 * kPacket<T>) : numbers;
  if (count == 0) return;
  const dim3 blocks = blocks_of((count + kThreads - 1) / kThreads);
  launch(pixel_shuffle_act_kernel<T>, blocks, kThreads, 0, stream, a, count, pairs);
}

}  // namespace

void pixel_shuffle_act(const PixelShuffleAct& arguments, cudaStream_t stream) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, stream); });
}

}  // namespace fastgan::cuda
