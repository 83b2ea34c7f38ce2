// Launching kernels; an error of CUDA becomes an exception.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace fastgan::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an error that was reported here must not be found by the next who asks
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// What every GPU gives a block without being asked.
constexpr size_t kSharedDefault = 48 * 1024;

// So many blocks along one axis, which CUDA takes up to 2^31 - 1 of.
inline dim3 blocks_of(int64_t count) {
  if (count > INT32_MAX) {
    throw std::runtime_error("a tensor is too large for one launch: it would take " + std::to_string(count) +
                             " blocks");
  }
  return dim3(static_cast<unsigned>(count));
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, cudaStream_t stream,
            const Arguments&... arguments) {
  if (shared > kSharedDefault) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "CUDA shared memory");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "CUDA launch");
}

inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "CUDA device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "CUDA device");
  return count;
}

}  // namespace fastgan::cuda
