// Python's table of the FIR resampling op.
#include <array>
#include <type_traits>

#include "bind.h"
#include "upfirdn2d.h"

namespace fastgan {

FASTGAN_DECLARE_CPU(void upfirdn2d(const Upfirdn2d&, int);)

#ifdef FASTGAN_WITH_CUDA
namespace cuda {
void upfirdn2d(const Upfirdn2d&, cudaStream_t);
}
#endif

namespace {

using Axis = std::array<int64_t, 6>;  // in, out, taps, up, down, pad

FilterAxis axis(const Axis& a) { return {a[0], a[1], a[2], a[3], a[4], a[5]}; }

template <typename Execution, typename Function>
void bind(py::module_& m, Function function) {
  // Whether the kernel takes an order other than Order::kept.
  m.def("upfirdn2d_turns", [] { return std::is_same_v<Execution, int>; });
  m.def("upfirdn2d",
        [=](uintptr_t x, uintptr_t y, uintptr_t fy, uintptr_t fx, int64_t planes, int64_t inner, const Axis& rows,
            const Axis& columns, bool flip, double gain, int dtype, int order, bool activated, uintptr_t b,
            int64_t channels, int act, double alpha, double act_gain, double clamp, Execution execution) {
          py::gil_scoped_release release;
          const auto* taps_y = static_cast<const float*>(pointer(fy));
          const auto* taps_x = static_cast<const float*>(pointer(fx));
          function(Upfirdn2d{pointer(x), pointer(y), taps_y, taps_x, planes, inner, axis(rows), axis(columns), flip,
                             gain, DType(dtype), Order(order),
                             Epilogue{pointer(b), channels, Activation(act), alpha, act_gain, clamp, activated}},
                   execution);
        });
}

}  // namespace

void bind_upfirdn2d(py::module_& cpu, py::module_* cuda) {
  bind<int>(cpu, FASTGAN_CPU(upfirdn2d));
#ifdef FASTGAN_WITH_CUDA
  bind<uintptr_t>(*cuda, FASTGAN_CUDA(upfirdn2d));
#endif
}

}  // namespace fastgan
