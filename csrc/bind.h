// What the files of bind/ have in common: each enters the functions of one op into `_C.cpu` and `_C.cuda`. Both offer
// the same functions, which differ in the last argument: the number of threads for the CPU, the address of a stream
// for CUDA. Addresses of tensors come as integers.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <vector>

#include "sizes.h"

#ifdef FASTGAN_WITH_CUDA
#include <cuda_runtime_api.h>
#define FASTGAN_CUDA(...) __VA_ARGS__
#else
#define FASTGAN_CUDA(...)
#endif
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

namespace pybind11::detail {

// Lists of addresses and of sizes, as pybind11/stl.h would read them, which takes seconds to compile in every file.
template <typename Values, size_t fixed = 0>
struct sequence_caster {
  using Value = typename Values::value_type;
  PYBIND11_TYPE_CASTER(Values, const_name<(fixed > 0)>(const_name("Annotated[Sequence[int], FixedSize(") +
                                                           const_name<fixed>() + const_name(")]"),
                                                       const_name("Sequence[int]")));

  bool load(handle source, bool convert) {
    if (!isinstance<sequence>(source)) return false;
    if constexpr (fixed == 0) value.resize(len(source));
    size_t read = 0;
    for (const handle item : source) {
      make_caster<Value> number;
      if (read == value.size() || !number.load(item, convert)) return false;
      value[read++] = cast_op<Value>(number);
    }
    return read == value.size();
  }
};
template <typename T>
struct type_caster<std::vector<T>> : sequence_caster<std::vector<T>> {};
template <typename T, size_t n>
struct type_caster<std::array<T, n>> : sequence_caster<std::array<T, n>, n> {};

}  // namespace pybind11::detail

namespace fastgan {

namespace py = pybind11;
using Addresses = std::vector<uintptr_t>;
using Sizes = std::vector<int64_t>;

// What a function that runs kernels is defined with: other threads of Python's go on meanwhile.
using WithoutGil = py::call_guard<py::gil_scoped_release>;

inline void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

// The x86-64 levels that csrc/cpu may be compiled for, and the one whose functions are called.
enum class CpuLevel : int { base, v3, v4 };
CpuLevel cpu_level();

// A device as the first argument of a function says which one of the same name is meant.
struct Cpu {
  using Execution = int;
};
struct Cuda {
  using Execution = uintptr_t;
};

// Declares `void function(const Arguments&, int)` of csrc/cpu at every level, and one that calls that of the processor.
#define FASTGAN_DECLARE_CPU(function, Arguments)                                               \
  namespace cpu::base {                                                                        \
  void function(const Arguments&, int);                                                        \
  }                                                                                            \
  FASTGAN_V3(namespace cpu::v3 { void function(const Arguments&, int); })                      \
  FASTGAN_V4(namespace cpu::v4 { void function(const Arguments&, int); })                      \
  inline void function(Cpu, const Arguments& arguments, int threads) {                         \
    FASTGAN_V4(if (cpu_level() == CpuLevel::v4) return cpu::v4::function(arguments, threads);) \
    FASTGAN_V3(if (cpu_level() == CpuLevel::v3) return cpu::v3::function(arguments, threads);) \
    cpu::base::function(arguments, threads);                                                   \
  }

// The same, and `void function(const Arguments&, cudaStream_t)` of csrc/cuda.
#define FASTGAN_DECLARE(function, Arguments)                                                  \
  FASTGAN_DECLARE_CPU(function, Arguments)                                                    \
  FASTGAN_CUDA(                                                                               \
      namespace cuda { void function(const Arguments&, cudaStream_t); } inline void function( \
          Cuda, const Arguments& arguments, uintptr_t stream) {                               \
        cuda::function(arguments, static_cast<cudaStream_t>(pointer(stream)));                \
      })

// Declares `int64_t function(...)` of these types, which every level of csrc/cpu answers alike.
#define FASTGAN_DECLARE_CPU_QUERY(function, ...) \
  namespace cpu::base {                          \
  int64_t function(__VA_ARGS__);                 \
  }                                              \
  template <typename... Sizes>                   \
  int64_t function(Cpu, Sizes... sizes) {        \
    return cpu::base::function(sizes...);        \
  }

// The same, and that of csrc/cuda.
#define FASTGAN_DECLARE_QUERY(function, ...)                                         \
  FASTGAN_DECLARE_CPU_QUERY(function, __VA_ARGS__)                                   \
  FASTGAN_CUDA(                                                                      \
      namespace cuda { int64_t function(__VA_ARGS__); } template <typename... Sizes> \
      int64_t function(Cuda, Sizes... sizes) { return cuda::function(sizes...); })

// The functions of one op: bind/<op>.cpp makes one of these, which enters itself into the list.
class Binding {
 public:
  using Bind = void (*)(py::module_&);
  Binding(Bind cpu, Bind cuda) : cpu(cpu), cuda(cuda), next(first) { first = this; }

  const Bind cpu, cuda;
  const Binding* const next;
  static inline const Binding* first = nullptr;
};

// Enters what `template <typename Device> void bind(py::module_&)` binds, for each device.
#ifdef FASTGAN_WITH_CUDA
#define FASTGAN_BIND(bind) const Binding binding(bind<Cpu>, bind<Cuda>)
#else
#define FASTGAN_BIND(bind) const Binding binding(bind<Cpu>, nullptr)
#endif

}  // namespace fastgan
