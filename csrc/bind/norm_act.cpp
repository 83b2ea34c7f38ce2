#include <type_traits>

#include "bind/channel_layout.h"

namespace fastgan {

FASTGAN_DECLARE(channel_statistics, ChannelStatistics)
FASTGAN_DECLARE_CPU_QUERY(norm_act_workspace, int64_t, int64_t, int64_t, bool)
FASTGAN_DECLARE_CPU(norm_act, NormAct)
FASTGAN_DECLARE_CPU(norm_act_backward, NormActBackward)

namespace {

// Normalization as a whole, which CUDA does in several calls.
void bind_whole(py::module_& m) {
  m.def("norm_act_workspace", [](int64_t count, int64_t channels, int64_t positions, bool last) {
    check_sizes("x", {count, channels, positions});
    return norm_act_workspace(Cpu{}, count, channels, positions, last);
  });
  m.def(
      "norm_act",
      [](uintptr_t x, uintptr_t y, uintptr_t mean, uintptr_t var, uintptr_t workspace, uintptr_t weight,
         int64_t weight_stride, uintptr_t bias, int64_t bias_stride, bool per_sample, double eps, int act, double alpha,
         int64_t count, int64_t channels, int64_t positions, bool last, int dtype, int threads) {
        norm_act(Cpu{},
                 NormAct{pointer(x),
                         pointer(y),
                         pointer(mean),
                         pointer(var),
                         pointer(workspace),
                         checked_layout(count, channels, positions, last, dtype),
                         per_sample,
                         {pointer(weight), weight_stride},
                         {pointer(bias), bias_stride},
                         eps,
                         Activation(act),
                         alpha},
                 threads);
      },
      WithoutGil());
  m.def(
      "norm_act_backward",
      [](uintptr_t dy, uintptr_t x, uintptr_t mean, uintptr_t var, uintptr_t dx, uintptr_t dweight, uintptr_t dbias,
         uintptr_t workspace, uintptr_t weight, int64_t weight_stride, uintptr_t bias, int64_t bias_stride,
         bool per_sample, double eps, int act, double alpha, int64_t count, int64_t channels, int64_t positions,
         bool last, int dtype, int threads) {
        norm_act_backward(Cpu{},
                          NormActBackward{pointer(dy),
                                          pointer(x),
                                          pointer(mean),
                                          pointer(var),
                                          pointer(dx),
                                          pointer(dweight),
                                          pointer(dbias),
                                          pointer(workspace),
                                          checked_layout(count, channels, positions, last, dtype),
                                          per_sample,
                                          {pointer(weight), weight_stride},
                                          {pointer(bias), bias_stride},
                                          eps,
                                          Activation(act),
                                          alpha},
                          threads);
      },
      WithoutGil());
}

template <typename Device>
void bind(py::module_& m) {
  m.def(
      "channel_statistics",
      [](uintptr_t x, uintptr_t mean, uintptr_t var, uintptr_t workspace, bool per_sample, int64_t count,
         int64_t channels, int64_t positions, bool last, int dtype, typename Device::Execution execution) {
        const ChannelLayout shape = checked_layout(count, channels, positions, last, dtype);
        channel_statistics(
            Device{}, ChannelStatistics{pointer(x), pointer(mean), pointer(var), pointer(workspace), shape, per_sample},
            execution);
      },
      WithoutGil());
  if constexpr (std::is_same_v<Device, Cpu>) bind_whole(m);
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
