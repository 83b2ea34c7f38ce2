// Values of any dtype: conversion to what is accumulated in and back, and packets of them moved 16 bytes at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../dtype.h"

namespace fastgan::cuda {

// Calls f with a value of the C++ type that the code names.
template <typename F>
__host__ __device__ __forceinline__ void dispatch(DType dtype, F f) {
  switch (dtype) {
    case DType::float64:
      return f(double{});
    case DType::float32:
      return f(float{});
    case DType::bfloat16:
      return f(__nv_bfloat16{});
    case DType::float16:
      return f(__half{});
  }
}

// What a dtype is accumulated in.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Of host code too: nvcc takes a call from a template there to a function of the device alone, which then ends the
// process.
__host__ __device__ __forceinline__ double widen(double x) { return x; }
__host__ __device__ __forceinline__ float widen(float x) { return x; }
__host__ __device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__host__ __device__ __forceinline__ float widen(__half x) { return __half2float(x); }

template <typename T, typename A>
__host__ __device__ __forceinline__ T narrow(A x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(static_cast<float>(x));
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(static_cast<float>(x));
  } else {
    return static_cast<T>(x);
  }
}

template <int kBytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

// kSize adjacent values.
template <typename T, int kSize>
struct Packet {
  static constexpr int kBytes = kSize * sizeof(T);
  using W = typename Word<(kBytes < 16 ? kBytes : 16)>::type;
  static constexpr int kWords = kBytes / sizeof(W);

  T x[kSize];

  // The address is a multiple of the packet's size, or of 16 bytes if that is less.
  __device__ __forceinline__ void load(const T* from) {
    W words[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = reinterpret_cast<const W*>(from)[i];
    memcpy(x, words, sizeof(words));
  }
  __device__ __forceinline__ void store(T* to) const {
    W words[kWords];
    memcpy(words, x, sizeof(words));
#pragma unroll
    for (int i = 0; i < kWords; ++i) reinterpret_cast<W*>(to)[i] = words[i];
  }
};

// The packets that begin with number `at` of some tensors, where they are there.
template <typename T, int kSize, int kTensors>
__device__ __forceinline__ void load_packets(Packet<T, kSize> (&packets)[kTensors],
                                             const void* const (&tensors)[kTensors], int64_t at, bool there) {
#pragma unroll
  for (int t = 0; t < kTensors; ++t) {
    if (there) packets[t].load(static_cast<const T*>(tensors[t]) + at);
  }
}

__host__ __device__ __forceinline__ bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Calls f(packet size): 16 bytes if every row starts on such a boundary in all the tensors, else one number.
template <typename T, typename F>
__device__ __forceinline__ void with_packet(int64_t cols, bool all_aligned, F f) {
  constexpr int kPacket = 16 / sizeof(T);
  if (all_aligned && cols % kPacket == 0) {
    f(std::integral_constant<int, kPacket>{});
  } else {
    f(std::integral_constant<int, 1>{});
  }
}

}  // namespace fastgan::cuda
