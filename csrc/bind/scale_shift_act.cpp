#include "scale_shift_act.h"

#include "bind/channel_layout.h"

namespace fastgan {

FASTGAN_DECLARE_QUERY(channel_workspace, int64_t, int64_t, int64_t, bool)
FASTGAN_DECLARE(scale_shift_act, ScaleShiftAct)
FASTGAN_DECLARE(scale_shift_act_backward, ScaleShiftActBackward)

namespace {

template <typename Device>
void bind(py::module_& m) {
  m.def("channel_workspace", [](int64_t count, int64_t channels, int64_t positions, bool last) {
    check_sizes("x", {count, channels, positions});
    return channel_workspace(Device{}, count, channels, positions, last);
  });
  // An address of values per channel is followed by their stride.
  m.def(
      "scale_shift_act",
      [](uintptr_t x, uintptr_t y, uintptr_t scale, int64_t scale_stride, uintptr_t shift, int64_t shift_stride,
         uintptr_t center, int64_t center_stride, int act, double alpha, int64_t count, int64_t channels,
         int64_t positions, bool last, int dtype, typename Device::Execution execution) {
        const Affine affine{{pointer(scale), scale_stride},
                            {pointer(shift), shift_stride},
                            {pointer(center), center_stride},
                            Activation(act),
                            alpha};
        const ChannelLayout shape = checked_layout(count, channels, positions, last, dtype);
        scale_shift_act(Device{}, ScaleShiftAct{pointer(x), pointer(y), shape, affine}, execution);
      },
      WithoutGil());
  m.def(
      "scale_shift_act_backward",
      [](uintptr_t dy, uintptr_t x, uintptr_t dx, uintptr_t dscale, uintptr_t dshift, uintptr_t workspace,
         bool per_sample, uintptr_t linear, int64_t linear_stride, uintptr_t constant, int64_t constant_stride,
         uintptr_t scale, int64_t scale_stride, uintptr_t shift, int64_t shift_stride, uintptr_t center,
         int64_t center_stride, int act, double alpha, int64_t count, int64_t channels, int64_t positions, bool last,
         int dtype, typename Device::Execution execution) {
        const Affine affine{{pointer(scale), scale_stride},
                            {pointer(shift), shift_stride},
                            {pointer(center), center_stride},
                            Activation(act),
                            alpha};
        const ChannelLayout shape = checked_layout(count, channels, positions, last, dtype);
        scale_shift_act_backward(Device{},
                                 ScaleShiftActBackward{pointer(dy),
                                                       pointer(x),
                                                       pointer(dx),
                                                       pointer(dscale),
                                                       pointer(dshift),
                                                       pointer(workspace),
                                                       per_sample,
                                                       shape,
                                                       affine,
                                                       {pointer(linear), linear_stride},
                                                       {pointer(constant), constant_stride}},
                                 execution);
      },
      WithoutGil());
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
