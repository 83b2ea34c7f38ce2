#include "bind.h"
#include "samples.h"

namespace fastgan {

FASTGAN_DECLARE_QUERY(sample_norm_workspace, int64_t, int64_t)
FASTGAN_DECLARE(sample_norm, SampleNorm)

namespace {

template <typename Device>
void bind(py::module_& m) {
  m.def("sample_norm_workspace", [](int64_t count, int64_t size) {
    check_sizes("x", {count, size});
    return sample_norm_workspace(Device{}, count, size);
  });
  m.def(
      "sample_norm",
      [](uintptr_t x, uintptr_t norms, uintptr_t workspace, int64_t count, int64_t size, bool squared, int dtype,
         typename Device::Execution execution) {
        check_sizes("x", {count, size});
        sample_norm(Device{},
                    SampleNorm{pointer(x), pointer(norms), pointer(workspace), count, size, squared, DType(dtype)},
                    execution);
      },
      WithoutGil());
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
