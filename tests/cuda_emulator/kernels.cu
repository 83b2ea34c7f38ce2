// Small kernels, most of them with one mistake, for tests/test_cuda_emulator.py: what runs one returns the error, or
// "". csrc/cuda is compiled into the same library.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace fastgan::cuda {
extern __shared__ uint4 dynamic_shared[];
}

namespace {

template <typename... Parameters, typename... Arguments>
const char* run(dim3 grid, dim3 block, size_t shared, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

__global__ void reverse(float* x, bool wait) {
  __shared__ float shared[64];
  shared[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  if (wait) __syncthreads();
  x[blockIdx.x * 64 + threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void unmet_barrier() {
  if (threadIdx.x < 40) __syncthreads();
}

__global__ void two_barriers() {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void unmet_shuffle(float* x) {
  if (threadIdx.x < 40) x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
}

__global__ void shuffle_from_outside(float* x) {
  if (threadIdx.x < 4) x[threadIdx.x] = __shfl_sync(0xfu, x[threadIdx.x], 4);
}

__global__ void shuffles(float* x) {
  const float lane = static_cast<float>(threadIdx.x);
  x[threadIdx.x] = __shfl_sync(0xffffffffu, lane, 3, 8);
  x[32 + threadIdx.x] = __shfl_up_sync(0xffffffffu, lane, 3, 8);
  x[64 + threadIdx.x] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
  x[96 + threadIdx.x] = __shfl_xor_sync(0xffffffffu, lane, 12, 8);
  if (threadIdx.x >= 28) x[128 + threadIdx.x - 28] = __shfl_xor_sync(0xf0000000u, lane, 1);
}

template <typename Word>
__global__ void copy(const float* from, float* to) {
  *reinterpret_cast<Word*>(to) = *reinterpret_cast<const Word*>(from);
}

__global__ void beyond_array(float* x, int index) {
  __shared__ float shared[8];
  shared[index] = x[0];
  x[0] = shared[index];
}

__global__ void fill_shared(float* x, int count) {
  auto* shared = reinterpret_cast<float*>(fastgan::cuda::dynamic_shared);
  x[0] = shared[0];
  for (int i = 0; i < count; ++i) shared[i] = 1;
}

struct Wide {
  char bytes[4088];
};
__global__ void many_parameters(const __grid_constant__ Wide, int, int, bool) {}
__global__ void nothing() {}
__global__ void places(unsigned* x) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  x[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* emulator_reverse(float* x, bool wait) { return run(4, 64, 0, reverse, x, wait); }
EXPORT const char* emulator_unmet_barrier() { return run(1, 64, 0, unmet_barrier); }
EXPORT const char* emulator_two_barriers() { return run(1, 64, 0, two_barriers); }
EXPORT const char* emulator_unmet_shuffle(float* x) { return run(1, 64, 0, unmet_shuffle, x); }
EXPORT const char* emulator_shuffle_from_outside(float* x) { return run(1, 32, 0, shuffle_from_outside, x); }
EXPORT const char* emulator_shuffles(float* x) { return run(1, 32, 0, shuffles, x); }
EXPORT const char* emulator_copy16(const float* from, float* to) { return run(1, 1, 0, copy<uint4>, from, to); }
EXPORT const char* emulator_copy8(const float* from, float* to) { return run(1, 1, 0, copy<uint2>, from, to); }
EXPORT const char* emulator_beyond_array(float* x, int index) { return run(1, 1, 0, beyond_array, x, index); }
EXPORT const char* emulator_fill_shared(float* x, int count) { return run(2, 1, 64, fill_shared, x, count); }
EXPORT const char* emulator_many_parameters() { return run(1, 1, 0, many_parameters, Wide{}, 0, 0, true); }
EXPORT const char* emulator_launch(int grid, int block, int depth, int shared, int allowed) {
  const cudaError_t error = cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, allowed);
  return error == cudaSuccess ? run(grid, dim3(block, 1, depth), shared, nothing) : cudaGetErrorString(error);
}
EXPORT const char* emulator_places(unsigned* x) { return run(dim3(2, 3, 4), dim3(4, 3, 2), 0, places, x); }

EXPORT void emulator_round_trips(const float* x, int count, float* bfloat16, float* float16) {
  for (int i = 0; i < count; ++i) {
    bfloat16[i] = __bfloat162float(__float2bfloat16_rn(x[i]));
    float16[i] = __half2float(__float2half_rn(x[i]));
  }
}
