// CUDA C++ as plain C++17, for the emulator: the words of the language, and launching a kernel. See emulator.cpp.
#pragma once

#include <math.h>
#include <string.h>

#include <cstddef>
#include <functional>
#include <tuple>

#include "cuda_runtime_api.h"

#define __host__
#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
// Blocks run one after another, so what a block shares is static; unlike that word, this one may stand after `extern`.
#define __shared__ thread_local

struct alignas(8) uint2 {
  unsigned x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace emulator {

constexpr int kWarp = 32;
constexpr size_t kLargestShuffled = 8;

void barrier(int line);
// Replaces the value by that of the source lane.
void shuffle(unsigned mask, int source, void* value, size_t size, int line);
cudaError_t allow_shared(const void* kernel, int bytes);
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, size_t parameters,
                   const std::function<void()>& thread);

inline int lane() {
  return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % kWarp);
}
template <typename T>
T shuffled(unsigned mask, T x, int source, int line) {
  static_assert(sizeof(T) <= kLargestShuffled, "CUDA shuffles numbers of 8 bytes at most");
  shuffle(mask, source, &x, sizeof(T), line);
  return x;
}

}  // namespace emulator

inline void __syncthreads(int line = __builtin_LINE()) { emulator::barrier(line); }

// Lanes stand in segments of `width`. A lane whose source is outside its segment keeps its own value.
template <typename T>
T __shfl_sync(unsigned mask, T x, int source, int width = emulator::kWarp, int line = __builtin_LINE()) {
  return emulator::shuffled(mask, x, (emulator::lane() & -width) + (source & (width - 1)), line);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T x, unsigned delta, int width = emulator::kWarp, int line = __builtin_LINE()) {
  const int lane = emulator::lane(), source = lane - static_cast<int>(delta);
  return emulator::shuffled(mask, x, source >= (lane & -width) ? source : lane, line);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T x, unsigned delta, int width = emulator::kWarp, int line = __builtin_LINE()) {
  const int lane = emulator::lane(), source = lane + static_cast<int>(delta);
  return emulator::shuffled(mask, x, source < (lane & -width) + width ? source : lane, line);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T x, int bits, int width = emulator::kWarp, int line = __builtin_LINE()) {
  const int lane = emulator::lane(), source = lane ^ bits;
  // Of an earlier segment it gets the value, as on a GPU.
  return emulator::shuffled(mask, x, source < (lane & -width) + width ? source : lane, line);
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  return emulator::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::tuple<Parameters...> parameters(std::forward<Arguments>(arguments)...);
  size_t size = 0;
  ((size = (size + alignof(Parameters) - 1) / alignof(Parameters) * alignof(Parameters) + sizeof(Parameters)), ...);
  return emulator::launch(*config, reinterpret_cast<const void*>(kernel), size,
                          [&] { std::apply(kernel, parameters); });
}
