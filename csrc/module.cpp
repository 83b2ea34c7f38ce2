// fastgan._C: everything that Python can call, and the choice of the x86-64 level.
#include <stdexcept>
#include <string>
#include <utility>

#include "bind.h"

namespace fastgan {
namespace {

using python::Object;
using python::owned;

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

Object supported_cpu_levels() {
  Object names = owned(PyList_New(0));
  for (const auto& level : cpu_levels()) {
    if (!level.supported) continue;
    const Object name = owned(PyUnicode_FromString(level.name));
    if (PyList_Append(names.get(), name.get()) != 0) throw python::Raised{};
  }
  return names;
}

#ifdef FASTGAN_WITH_CUDA
// Asks no device: without a driver its version is 0.
Object cuda_versions() {
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  return owned(Py_BuildValue("(ii)", runtime, driver));
}
#endif

Module submodule(const Module& parent, const char* name) {
  const Object whole = owned(PyUnicode_FromFormat("%s.%s", PyModule_GetName(parent.object), name));
  Object made = owned(PyModule_NewObject(whole.get()));
  const Module module{made.get()};
  parent.add(name, std::move(made));
  return module;
}

void enter_functions(const Module& module) {
  const Module cpu = submodule(module, "cpu");
  cpu.def(
      "levels", [] { return supported_cpu_levels(); },
      "The compiled x86-64 levels that this processor has, the best one first.");
  cpu.def(
      "use_level", [](const std::string& name) { use_cpu_level(name); },
      "Run another level than the best one: for tests.");
  for (const Binding* op = Binding::first; op != nullptr; op = op->next) op->cpu(cpu);
#ifdef FASTGAN_WITH_CUDA
  const Module cuda = submodule(module, "cuda");
  cuda.def(
      "versions", [] { return cuda_versions(); },
      "1000 major + 10 minor of CUDA's runtime here, and of what the driver has.");
  for (const Binding* op = Binding::first; op != nullptr; op = op->next) {
    if (op->cuda != nullptr) op->cuda(cuda);
  }
#endif
}

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "_C",
    "Compiled kernels of fastgan; fastgan/_native.py calls them, and fastgan/memory.py the CPU's memory.",
    -1,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace

CpuLevel cpu_level() { return chosen_cpu_level; }

}  // namespace fastgan

PyMODINIT_FUNC PyInit__C() {
  using namespace fastgan;
  PyObject* const module = PyModule_Create(&definition);
  if (module == nullptr) return nullptr;
  try {
    enter_functions(Module{module});
  } catch (...) {
    Py_DECREF(module);
    return python::raise("_C", nullptr, 0);
  }
  return module;
}
