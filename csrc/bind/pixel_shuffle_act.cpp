#include "pixel_shuffle_act.h"

#include <stdexcept>

#include "bind.h"

namespace fastgan {

FASTGAN_DECLARE(pixel_shuffle_act, PixelShuffleAct)

namespace {

template <typename Device>
void bind(py::module_& m) {
  m.def(
      "pixel_shuffle_act",
      [](uintptr_t dy, uintptr_t x, uintptr_t bias, uintptr_t out, int64_t factor, int act, double alpha, int64_t count,
         int64_t channels, int64_t height, int64_t width, bool last, int dtype, typename Device::Execution execution) {
        if (factor < 1 || factor > kMostFactor) throw std::runtime_error("upscale_factor must be from 1 to 16");
        check_sizes("x", {count, channels, factor, factor, height, width});
        pixel_shuffle_act(Device{},
                          PixelShuffleAct{pointer(dy), pointer(x), pointer(bias), pointer(out), factor, count, channels,
                                          height, width, last, Activation(act), alpha, DType(dtype)},
                          execution);
      },
      WithoutGil());
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
