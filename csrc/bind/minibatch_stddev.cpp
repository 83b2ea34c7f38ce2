#include "minibatch_stddev.h"

#include <stdexcept>

#include "bind.h"

namespace fastgan {

FASTGAN_DECLARE_QUERY(minibatch_stddev_workspace, int64_t, int64_t, int64_t, int64_t, int64_t)
FASTGAN_DECLARE(minibatch_stddev, MinibatchStddev)

namespace {

void check(int64_t count, int64_t channels, int64_t positions, int64_t group, int64_t features) {
  check_sizes("x", {count, channels, positions});
  check_sizes("y", {count, channels + features, positions});
  if (group < 1 || features < 1 || count % group != 0 || channels % features != 0) {
    throw std::runtime_error("samples must be a multiple of the group's, channels one of the features");
  }
}

template <typename Device>
void bind(py::module_& m) {
  m.def("minibatch_stddev_workspace",
        [](int64_t count, int64_t channels, int64_t positions, int64_t group, int64_t features) {
          check(count, channels, positions, group, features);
          return minibatch_stddev_workspace(Device{}, count, channels, positions, group, features);
        });
  m.def(
      "minibatch_stddev",
      [](uintptr_t dy, uintptr_t x, uintptr_t out, uintptr_t workspace, int64_t count, int64_t channels,
         int64_t positions, int64_t group, int64_t features, bool last, double eps, int dtype,
         typename Device::Execution execution) {
        check(count, channels, positions, group, features);
        minibatch_stddev(Device{},
                         MinibatchStddev{pointer(dy), pointer(x), pointer(out), pointer(workspace), count, channels,
                                         positions, group, features, last, eps, DType(dtype)},
                         execution);
      },
      WithoutGil());
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
