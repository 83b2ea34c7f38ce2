#include "bind.h"
#include "channels.h"

namespace fastgan {

FASTGAN_DECLARE_QUERY(sum_channels_workspace, int64_t, int64_t, int64_t)
FASTGAN_DECLARE(sum_channels, SumChannels)

namespace {

template <typename Device>
void bind(py::module_& m) {
  m.def("sum_channels_workspace", [](int64_t outer, int64_t channels, int64_t inner) {
    check_sizes("x", {outer, channels, inner});
    return sum_channels_workspace(Device{}, outer, channels, inner);
  });
  m.def(
      "sum_channels",
      [](uintptr_t x, uintptr_t sums, uintptr_t workspace, int64_t outer, int64_t channels, int64_t inner, int dtype,
         typename Device::Execution execution) {
        check_sizes("x", {outer, channels, inner});
        sum_channels(Device{},
                     SumChannels{pointer(x), pointer(sums), pointer(workspace), {outer, channels, inner}, DType(dtype)},
                     execution);
      },
      WithoutGil());
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
