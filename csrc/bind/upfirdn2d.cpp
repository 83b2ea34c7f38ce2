#include "upfirdn2d.h"

#include <array>
#include <stdexcept>
#include <type_traits>

#include "bind.h"

namespace fastgan {

FASTGAN_DECLARE(upfirdn2d, Upfirdn2d)

namespace {

using Axis = std::array<int64_t, 6>;  // in, out, taps, up, down, pad

FilterAxis axis(const Axis& a) { return {a[0], a[1], a[2], a[3], a[4], a[5]}; }

// Inputs with zeros between and around them.
int64_t padded(const FilterAxis& a) { return (a.out > 0 ? a.out - 1 : 0) * a.down + a.taps; }

// What a kernel adds up: below these limits it stays far from 2^63.
void check_axis(const FilterAxis& a) {
  constexpr int64_t kMost = INT32_MAX;  // fastgan/ops/upfirdn2d.py has the same for what a user passes
  const auto between = [](int64_t value, int64_t least, int64_t most) { return value >= least && value <= most; };
  if (between(a.in, 0, kMost) && between(a.out, 0, kMost) && between(a.taps, 1, kMaxTaps) &&
      between(a.up, 1, kMaxStep) && between(a.down, 1, kMaxStep) && between(a.pad, -4 * kMost, 4 * kMost)) {
    return;
  }
  throw std::runtime_error("upfirdn2d: sizes, up, down or padding of an axis are out of range");
}

void check_upfirdn2d(const Upfirdn2d& a) {
  check_axis(a.rows);
  check_axis(a.columns);
  check_sizes("x", {a.planes, a.inner, a.rows.in, a.columns.in});
  check_sizes("x with padding", {a.planes, a.inner, padded(a.rows), padded(a.columns)});
}

template <typename Device>
void bind(py::module_& m) {
  // Whether the kernel takes an order other than Order::kept.
  m.def("upfirdn2d_turns", [] { return std::is_same_v<Device, Cpu>; });
  m.def(
      "upfirdn2d",
      [](uintptr_t x, uintptr_t y, uintptr_t fy, uintptr_t fx, int64_t planes, int64_t inner, const Axis& rows,
         const Axis& columns, bool flip, double gain, int dtype, int order, bool activated, uintptr_t b,
         int64_t channels, int act, double alpha, double act_gain, double clamp, typename Device::Execution execution) {
        const auto* taps_y = static_cast<const float*>(pointer(fy));
        const auto* taps_x = static_cast<const float*>(pointer(fx));
        const Upfirdn2d arguments{pointer(x),
                                  pointer(y),
                                  taps_y,
                                  taps_x,
                                  planes,
                                  inner,
                                  axis(rows),
                                  axis(columns),
                                  flip,
                                  gain,
                                  DType(dtype),
                                  Order(order),
                                  Epilogue{pointer(b), channels, Activation(act), alpha, act_gain, clamp, activated}};
        check_upfirdn2d(arguments);
        upfirdn2d(Device{}, arguments, execution);
      },
      WithoutGil());
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
