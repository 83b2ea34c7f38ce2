// The table of everything that Python can call. Addresses come as integers; the GIL is released while compiled code
// runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "memory.h"
#include "samples.h"
#include "spectral_norm.h"

#ifdef FASTGAN_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace py = pybind11;
using py::literals::operator""_a;

namespace fastgan {

#define FASTGAN_CPU_FUNCTIONS                                    \
  void spectral_norm_forward(const SpectralNormForward&, int);   \
  void spectral_norm_backward(const SpectralNormBackward&, int); \
  int64_t sample_norm_workspace(int64_t, int64_t);               \
  void sample_norm(const SampleNorm&, int);                      \
  void scale_samples(const ScaleSamples&, int);                  \
  void interpolate(const Interpolate&, int);                     \
  void interpolate_backward(const InterpolateBackward&, int);

namespace cpu::base {
FASTGAN_CPU_FUNCTIONS
}
#ifdef FASTGAN_HAS_V3
namespace cpu::v3 {
FASTGAN_CPU_FUNCTIONS
}
#endif
#ifdef FASTGAN_HAS_V4
namespace cpu::v4 {
FASTGAN_CPU_FUNCTIONS
}
#endif

#ifdef FASTGAN_WITH_CUDA
namespace cuda {
int64_t spectral_norm_plan(SpectralNormLayer*, int64_t);
void spectral_norm_forward(const SpectralNormForward&, cudaStream_t);
void spectral_norm_backward(const SpectralNormBackward&, cudaStream_t);
int64_t sample_norm_workspace(int64_t, int64_t);
void sample_norm(const SampleNorm&, cudaStream_t);
void scale_samples(const ScaleSamples&, cudaStream_t);
void interpolate(const Interpolate&, cudaStream_t);
void interpolate_backward(const InterpolateBackward&, cudaStream_t);
}  // namespace cuda
#endif

namespace {

using Addresses = std::vector<uintptr_t>;
using Sizes = std::vector<int64_t>;

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

// What one x86-64 level offers.
struct CpuLevel {
  const char* name;
  bool supported;
  void (*spectral_norm_forward)(const SpectralNormForward&, int);
  void (*spectral_norm_backward)(const SpectralNormBackward&, int);
  void (*sample_norm)(const SampleNorm&, int);
  void (*scale_samples)(const ScaleSamples&, int);
  void (*interpolate)(const Interpolate&, int);
  void (*interpolate_backward)(const InterpolateBackward&, int);
};

#define FASTGAN_CPU_LEVEL_ROW(level, supported) \
  {#level,                                      \
   supported,                                   \
   cpu::level::spectral_norm_forward,           \
   cpu::level::spectral_norm_backward,          \
   cpu::level::sample_norm,                     \
   cpu::level::scale_samples,                   \
   cpu::level::interpolate,                     \
   cpu::level::interpolate_backward}

// The best one first.
const std::vector<CpuLevel>& cpu_levels() {
  static const std::vector<CpuLevel> levels = {
#ifdef FASTGAN_HAS_V4
      FASTGAN_CPU_LEVEL_ROW(v4, __builtin_cpu_supports("x86-64-v4") != 0),
#endif
#ifdef FASTGAN_HAS_V3
      FASTGAN_CPU_LEVEL_ROW(v3, __builtin_cpu_supports("x86-64-v3") != 0),
#endif
      FASTGAN_CPU_LEVEL_ROW(base, true),
  };
  return levels;
}

const CpuLevel* best_cpu_level() {
  for (const auto& level : cpu_levels()) {
    if (level.supported) return &level;
  }
  return nullptr;  // never: base is always supported
}

const CpuLevel* cpu_level = best_cpu_level();

void use_cpu_level(const std::string& name) {
  for (const auto& level : cpu_levels()) {
    if (name == level.name && level.supported) {
      cpu_level = &level;
      return;
    }
  }
  throw std::invalid_argument("level " + name + " is not compiled, or this processor does not have it");
}

std::vector<std::string> supported_cpu_levels() {
  std::vector<std::string> names;
  for (const auto& level : cpu_levels()) {
    if (level.supported) names.push_back(level.name);
  }
  return names;
}

std::vector<SpectralNormLayer> make_layers(const Sizes& rows, const Sizes& cols) {
  std::vector<SpectralNormLayer> layers(rows.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i].rows = rows[i];
    layers[i].cols = cols[i];
  }
  return layers;
}

std::vector<SpectralNormLayer> forward_layers(const Addresses& w, const Addresses& u, const Addresses& v,
                                              const Addresses& w_out, const Addresses& u_out, const Addresses& v_out,
                                              const Sizes& rows, const Sizes& cols) {
  auto layers = make_layers(rows, cols);
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i].w = pointer(w.at(i));
    layers[i].u = pointer(u.at(i));
    layers[i].v = pointer(v.at(i));
    layers[i].w_out = pointer(w_out.at(i));
    layers[i].u_out = pointer(u_out.at(i));
    layers[i].v_out = pointer(v_out.at(i));
  }
  return layers;
}

std::vector<SpectralNormLayer> backward_layers(const Addresses& grad, const Addresses& w, const Addresses& u,
                                               const Addresses& v, const Addresses& dw, const Sizes& rows,
                                               const Sizes& cols) {
  auto layers = make_layers(rows, cols);
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i].grad = pointer(grad.at(i));
    layers[i].w = pointer(w.at(i));
    layers[i].u = pointer(u.at(i));
    layers[i].v = pointer(v.at(i));
    layers[i].w_out = pointer(dw.at(i));
  }
  return layers;
}

// A tensor made by torch.frombuffer holds the block, and with it the pages.
void bind_memory(py::module_& m) {
  py::class_<Block>(m, "Block", py::buffer_protocol(), py::module_local())
      .def(py::init<size_t>(), "bytes"_a)
      .def_buffer([](const Block& b) {
        return py::buffer_info(static_cast<unsigned char*>(b.data()), static_cast<py::ssize_t>(b.bytes()));
      });
  m.def("block_bytes", [] {
    const BlockBytes bytes = block_bytes();
    return py::dict("free"_a = bytes.free, "used"_a = bytes.used);
  });
  m.def("drop_free_blocks", drop_free_blocks, "limit"_a);
}

// Both devices offer the same functions; they differ in the plan and in the last argument, threads or a stream.
template <typename Execution, typename Plan, typename Forward, typename Backward>
void bind_spectral_norm(py::module_& m, Plan plan, Forward run_forward, Backward run_backward) {
  m.def("spectral_norm_workspace", [plan](const Sizes& rows, const Sizes& cols) {
    auto layers = make_layers(rows, cols);
    return plan(layers.data(), static_cast<int64_t>(layers.size()));
  });
  m.def("spectral_norm_forward",
        [=](const Addresses& w, const Addresses& u, const Addresses& v, const Addresses& w_out, const Addresses& u_out,
            const Addresses& v_out, const Sizes& rows, const Sizes& cols, uintptr_t sigmas, uintptr_t workspace,
            int iterations, double eps, bool u_first, int dtype, int out_dtype, Execution execution) {
          py::gil_scoped_release release;
          auto layers = forward_layers(w, u, v, w_out, u_out, v_out, rows, cols);
          const auto count = static_cast<int64_t>(layers.size());
          plan(layers.data(), count);
          run_forward(SpectralNormForward{layers.data(), count, pointer(sigmas), pointer(workspace), iterations, eps,
                                          u_first, DType(dtype), DType(out_dtype)},
                      execution);
        });
  m.def("spectral_norm_backward",
        [=](const Addresses& grad, const Addresses& w, const Addresses& u, const Addresses& v, const Addresses& dw,
            const Sizes& rows, const Sizes& cols, uintptr_t sigmas, uintptr_t grad_sigmas, uintptr_t workspace,
            int dtype, int grad_dtype, Execution execution) {
          py::gil_scoped_release release;
          auto layers = backward_layers(grad, w, u, v, dw, rows, cols);
          const auto count = static_cast<int64_t>(layers.size());
          plan(layers.data(), count);
          run_backward(SpectralNormBackward{layers.data(), count, pointer(sigmas), pointer(grad_sigmas),
                                            pointer(workspace), DType(dtype), DType(grad_dtype)},
                       execution);
        });
}

template <typename Execution, typename Workspace, typename Norm, typename Scale, typename Mix, typename MixBackward>
void bind_samples(py::module_& m, Workspace workspace_size, Norm norm, Scale scale, Mix mix, MixBackward mix_backward) {
  m.def("sample_norm_workspace", workspace_size);
  m.def("sample_norm", [=](uintptr_t x, uintptr_t norms, uintptr_t workspace, int64_t count, int64_t size, bool squared,
                           int dtype, Execution execution) {
    py::gil_scoped_release release;
    norm(SampleNorm{pointer(x), pointer(norms), pointer(workspace), count, size, squared, DType(dtype)}, execution);
  });
  m.def("scale_samples", [=](uintptr_t x, uintptr_t c, uintptr_t norms, uintptr_t y, int64_t count, int64_t size,
                             double factor, int dtype, Execution execution) {
    py::gil_scoped_release release;
    scale(ScaleSamples{pointer(x), pointer(c), pointer(norms), pointer(y), count, size, factor, DType(dtype)},
          execution);
  });
  m.def("interpolate", [=](uintptr_t real, uintptr_t fake, uintptr_t eps, uintptr_t y, int64_t count, int64_t size,
                           int dtype, Execution execution) {
    py::gil_scoped_release release;
    mix(Interpolate{pointer(real), pointer(fake), pointer(eps), pointer(y), count, size, DType(dtype)}, execution);
  });
  m.def("interpolate_backward", [=](uintptr_t dy, uintptr_t eps, uintptr_t dreal, uintptr_t dfake, int64_t count,
                                    int64_t size, int dtype, Execution execution) {
    py::gil_scoped_release release;
    mix_backward(
        InterpolateBackward{pointer(dy), pointer(eps), pointer(dreal), pointer(dfake), count, size, DType(dtype)},
        execution);
  });
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of fastgan; fastgan/_native.py calls them, and fastgan/memory.py the CPU's memory.";
  auto cpu = m.def_submodule("cpu");
  cpu.def("levels", supported_cpu_levels, "The compiled x86-64 levels that this processor has, the best one first.");
  cpu.def("use_level", use_cpu_level, "Run another level than the best one: for tests.");
  bind_memory(cpu);
  bind_spectral_norm<int>(
      cpu, spectral_norm_plan,
      [](const SpectralNormForward& a, int threads) { cpu_level->spectral_norm_forward(a, threads); },
      [](const SpectralNormBackward& a, int threads) { cpu_level->spectral_norm_backward(a, threads); });
  bind_samples<int>(
      cpu, cpu::base::sample_norm_workspace,
      [](const SampleNorm& a, int threads) { cpu_level->sample_norm(a, threads); },
      [](const ScaleSamples& a, int threads) { cpu_level->scale_samples(a, threads); },
      [](const Interpolate& a, int threads) { cpu_level->interpolate(a, threads); },
      [](const InterpolateBackward& a, int threads) { cpu_level->interpolate_backward(a, threads); });
#ifdef FASTGAN_WITH_CUDA
  auto cuda = m.def_submodule("cuda");
  auto stream = [](uintptr_t address) { return static_cast<cudaStream_t>(pointer(address)); };
  bind_spectral_norm<uintptr_t>(
      cuda, cuda::spectral_norm_plan,
      [=](const SpectralNormForward& a, uintptr_t address) { cuda::spectral_norm_forward(a, stream(address)); },
      [=](const SpectralNormBackward& a, uintptr_t address) { cuda::spectral_norm_backward(a, stream(address)); });
  bind_samples<uintptr_t>(
      cuda, cuda::sample_norm_workspace,
      [=](const SampleNorm& a, uintptr_t address) { cuda::sample_norm(a, stream(address)); },
      [=](const ScaleSamples& a, uintptr_t address) { cuda::scale_samples(a, stream(address)); },
      [=](const Interpolate& a, uintptr_t address) { cuda::interpolate(a, stream(address)); },
      [=](const InterpolateBackward& a, uintptr_t address) { cuda::interpolate_backward(a, stream(address)); });
#endif
}

}  // namespace fastgan
