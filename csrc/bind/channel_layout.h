// The shape of a tensor of channels, checked, for the ops that scale and normalize them.
#pragma once

#include "bind.h"
#include "scale_shift_act.h"

namespace fastgan {

inline ChannelLayout checked_layout(int64_t count, int64_t channels, int64_t positions, bool last, int dtype) {
  check_sizes("x", {count, channels, positions});
  return {count, channels, positions, last, DType(dtype)};
}

}  // namespace fastgan
