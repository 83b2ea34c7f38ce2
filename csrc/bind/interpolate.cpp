#include "bind.h"
#include "samples.h"

namespace fastgan {

FASTGAN_DECLARE(interpolate, Interpolate)
FASTGAN_DECLARE(interpolate_backward, InterpolateBackward)

namespace {

template <typename Device>
void bind(py::module_& m) {
  m.def(
      "interpolate",
      [](uintptr_t real, uintptr_t fake, uintptr_t eps, uintptr_t y, int64_t count, int64_t size, int dtype,
         typename Device::Execution execution) {
        check_sizes("real", {count, size});
        interpolate(Device{},
                    Interpolate{pointer(real), pointer(fake), pointer(eps), pointer(y), count, size, DType(dtype)},
                    execution);
      },
      WithoutGil());
  m.def(
      "interpolate_backward",
      [](uintptr_t dy, uintptr_t eps, uintptr_t dreal, uintptr_t dfake, int64_t count, int64_t size, int dtype,
         typename Device::Execution execution) {
        check_sizes("dy", {count, size});
        interpolate_backward(
            Device{},
            InterpolateBackward{pointer(dy), pointer(eps), pointer(dreal), pointer(dfake), count, size, DType(dtype)},
            execution);
      },
      WithoutGil());
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
