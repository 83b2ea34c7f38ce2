#include "bind.h"
#include "samples.h"

namespace fastgan {

FASTGAN_DECLARE(scale_samples, ScaleSamples)

namespace {

template <typename Device>
void bind(py::module_& m) {
  m.def(
      "scale_samples",
      [](uintptr_t x, uintptr_t c, uintptr_t norms, uintptr_t y, int64_t count, int64_t size, double factor, int dtype,
         typename Device::Execution execution) {
        check_sizes("x", {count, size});
        scale_samples(
            Device{},
            ScaleSamples{pointer(x), pointer(c), pointer(norms), pointer(y), count, size, factor, DType(dtype)},
            execution);
      },
      WithoutGil());
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
