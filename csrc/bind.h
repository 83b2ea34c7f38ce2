// What the tables of functions that Python can call have in common. Addresses come as integers; the GIL is released
// while compiled code runs. Each family of ops has a table of its own, bind_<family>.cpp.
//
// Both devices offer the same functions: they differ in the last argument, which is the number of threads for the CPU
// and the address of a stream for CUDA.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <vector>

#include "sizes.h"

#ifdef FASTGAN_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace fastgan {

namespace py = pybind11;
using Addresses = std::vector<uintptr_t>;
using Sizes = std::vector<int64_t>;

inline void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

// The x86-64 levels that csrc/cpu may be compiled for, and the one whose functions are called.
enum class CpuLevel : int { base, v3, v4 };
CpuLevel cpu_level();

#ifdef FASTGAN_HAS_V3
#define FASTGAN_V3(...) __VA_ARGS__
#else
#define FASTGAN_V3(...)
#endif
#ifdef FASTGAN_HAS_V4
#define FASTGAN_V4(...) __VA_ARGS__
#else
#define FASTGAN_V4(...)
#endif

// Declares functions of csrc/cpu at every level.
#define FASTGAN_DECLARE_CPU(...)             \
  namespace cpu::base {                      \
  __VA_ARGS__                                \
  }                                          \
  FASTGAN_V3(namespace cpu::v3{__VA_ARGS__}) \
  FASTGAN_V4(namespace cpu::v4{__VA_ARGS__})

// Calls a function of csrc/cpu at the level of the processor.
#define FASTGAN_CPU(function)                                                            \
  [](const auto&... arguments) {                                                         \
    FASTGAN_V4(if (cpu_level() == CpuLevel::v4) return cpu::v4::function(arguments...);) \
    FASTGAN_V3(if (cpu_level() == CpuLevel::v3) return cpu::v3::function(arguments...);) \
    return cpu::base::function(arguments...);                                            \
  }

#ifdef FASTGAN_WITH_CUDA
// Calls a function of csrc/cuda, which takes a stream where Python gives its address.
#define FASTGAN_CUDA(function) \
  [](const auto& arguments, uintptr_t stream) { cuda::function(arguments, static_cast<cudaStream_t>(pointer(stream))); }
#endif

// Enter a family's functions into `_C.cpu`, and into `_C.cuda` where that is compiled, else a null pointer.
void bind_memory(py::module_& cpu);
void bind_bias_act(py::module_& cpu, py::module_* cuda);
void bind_samples(py::module_& cpu, py::module_* cuda);
void bind_scale_shift_act(py::module_& cpu, py::module_* cuda);
void bind_spectral_norm(py::module_& cpu, py::module_* cuda);
void bind_upfirdn2d(py::module_& cpu, py::module_* cuda);

}  // namespace fastgan
