// What the kernels on a batch of samples share: packets on their way from memory, the launch.
#pragma once

#include "launch.cuh"
#include "packet.cuh"
#include "samples_plan.h"

namespace fastgan::cuda {

// Packets that a thread has on their way from memory at a time: values of float64 take registers for two.
template <typename T>
constexpr int kAtOnce = sizeof(T) == 8 ? 2 : 4;
// For __launch_bounds__: without it ptxas spills values of float64 to have more blocks; 0 leaves it to ptxas.
template <typename T>
constexpr int kLeastBlocks = sizeof(T) == 8 ? 1 : 0;

template <typename T, int kPacket>
struct Packets {
  Packet<T, kPacket> of[kAtOnce<T>];

  // Zeros beyond the end of the share.
  __device__ __forceinline__ void load(const void* samples, const Samples& s, const Share& share, int64_t at) {
    const T* x = static_cast<const T*>(samples) + share.sample * s.size;
#pragma unroll
    for (int i = 0; i < kAtOnce<T>; ++i) {
      of[i] = {};
      if (at + i * share.step < share.end) of[i].load(x + at + i * share.step);
    }
  }
  __device__ __forceinline__ void store(void* samples, const Samples& s, const Share& share, int64_t at) const {
    T* y = static_cast<T*>(samples) + share.sample * s.size;
#pragma unroll
    for (int i = 0; i < kAtOnce<T>; ++i) {
      if (at + i * share.step < share.end) of[i].store(y + at + i * share.step);
    }
  }
};

// Calls f(packet size, share, at) for this thread's batches of packets, the first of which is at `at`.
template <typename T, typename F>
__device__ __forceinline__ void for_each_batch(const Samples& s, bool all_aligned, F f) {
  with_packet<T>(s.size, all_aligned, [&](auto packet) {
    const Share share = share_of(s, blockIdx.x, threadIdx.x, packet);
    for (int64_t at = share.begin; at < share.end; at += kAtOnce<T> * share.step) f(packet, share, at);
  });
}

// Calls f(packet size, share, at, packets of the tensors there) for this thread's packets, one after the other, while
// the next ones are on their way: f stands in the code once, which pays where it holds a case for every activation.
template <typename T, int kTensors, typename F>
__device__ __forceinline__ void for_each_packet(const Samples& s, const void* const (&tensors)[kTensors],
                                                bool all_aligned, F f) {
  with_packet<T>(s.size, all_aligned, [&](auto packet) {
    const Share share = share_of(s, blockIdx.x, threadIdx.x, packet);
    const int64_t first = share.sample * s.size;
    Packet<T, packet> next[kTensors];
    load_packets(next, tensors, first + share.begin, share.begin < share.end);
#pragma unroll 1
    for (int64_t at = share.begin; at < share.end; at += share.step) {
      Packet<T, packet> now[kTensors];
#pragma unroll
      for (int t = 0; t < kTensors; ++t) now[t] = next[t];
      load_packets(next, tensors, first + at + share.step, at + share.step < share.end);
      f(packet, share, first + at, now);
    }
  });
}

template <typename Kernel, typename... Arguments>
void launch_samples(Kernel kernel, const Samples& s, cudaStream_t stream, const Arguments&... arguments) {
  if (s.blocks() == 0) return;
  launch(kernel, blocks_of(s.blocks()), kSampleThreads, 0, stream, arguments...);
}

}  // namespace fastgan::cuda
