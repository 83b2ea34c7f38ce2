#include "bias_act.h"

#include "bind.h"

namespace fastgan {

FASTGAN_DECLARE(bias_act, BiasAct)

namespace {

template <typename Device>
void bind(py::module_& m) {
  m.def(
      "bias_act",
      [](uintptr_t x, uintptr_t b, uintptr_t dy, uintptr_t ddx, uintptr_t out, int64_t outer, int64_t channels,
         int64_t inner, int kind, int part, double alpha, double gain, double clamp, int dtype,
         typename Device::Execution execution) {
        check_sizes("x", {outer, channels, inner});
        bias_act(Device{},
                 BiasAct{pointer(x),
                         pointer(b),
                         pointer(dy),
                         pointer(ddx),
                         pointer(out),
                         {outer, channels, inner},
                         Activation(kind),
                         BiasActPart(part),
                         alpha,
                         gain,
                         clamp,
                         DType(dtype)},
                 execution);
      },
      WithoutGil());
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
