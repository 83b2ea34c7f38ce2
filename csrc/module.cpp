// fastgan._C: everything that Python can call, and the choice of the x86-64 level.
#include <stdexcept>
#include <string>

#include "bind.h"

namespace fastgan {
namespace {

struct Level {
  CpuLevel level;
  const char* name;
  bool supported;
};

// The best one first.
const std::vector<Level>& cpu_levels() {
  static const std::vector<Level> levels = {
      FASTGAN_V4({CpuLevel::v4, "v4", __builtin_cpu_supports("x86-64-v4") != 0}, )  //
      FASTGAN_V3({CpuLevel::v3, "v3", __builtin_cpu_supports("x86-64-v3") != 0}, )  //
      {CpuLevel::base, "base", true},
  };
  return levels;
}

CpuLevel best_cpu_level() {
  for (const auto& level : cpu_levels()) {
    if (level.supported) return level.level;
  }
  return CpuLevel::base;
}

CpuLevel chosen_cpu_level = best_cpu_level();

void use_cpu_level(const std::string& name) {
  for (const auto& level : cpu_levels()) {
    if (name == level.name && level.supported) {
      chosen_cpu_level = level.level;
      return;
    }
  }
  throw std::invalid_argument("level " + name + " is not compiled, or this processor does not have it");
}

py::list supported_cpu_levels() {
  py::list names;
  for (const auto& level : cpu_levels()) {
    if (level.supported) names.append(level.name);
  }
  return names;
}

#ifdef FASTGAN_WITH_CUDA
// Asks no device: without a driver its version is 0.
py::tuple cuda_versions() {
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  return py::make_tuple(runtime, driver);
}
#endif

}  // namespace

CpuLevel cpu_level() { return chosen_cpu_level; }

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of fastgan; fastgan/_native.py calls them, and fastgan/memory.py the CPU's memory.";
  auto cpu = m.def_submodule("cpu");
  cpu.def("levels", supported_cpu_levels, "The compiled x86-64 levels that this processor has, the best one first.");
  cpu.def("use_level", use_cpu_level, "Run another level than the best one: for tests.");
  for (const Binding* op = Binding::first; op != nullptr; op = op->next) op->cpu(cpu);
#ifdef FASTGAN_WITH_CUDA
  auto cuda = m.def_submodule("cuda");
  cuda.def("versions", cuda_versions, "1000 major + 10 minor of CUDA's runtime here, and of what the driver has.");
  for (const Binding* op = Binding::first; op != nullptr; op = op->next) {
    if (op->cuda != nullptr) op->cuda(cuda);
  }
#endif
}

}  // namespace fastgan
