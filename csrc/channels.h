// A dense tensor as it is stored, one of its dimensions being that of the channels: [outer, channels, inner].
#pragma once

#include <cstdint>

#include "dtype.h"

#ifdef __CUDACC__
#define FASTGAN_ANYWHERE __host__ __device__
#else
#define FASTGAN_ANYWHERE
#endif

namespace fastgan {

struct Channels {
  int64_t outer, channels, inner;
  constexpr int64_t numbers() const { return outer * channels * inner; }
  constexpr int64_t row() const { return channels * inner; }
  constexpr int64_t channel_of(int64_t i) const {
    // A division of 64 bits is slow on a GPU.
    if (i < INT32_MAX) {
      const auto group = static_cast<uint32_t>(i) / static_cast<uint32_t>(inner < INT32_MAX ? inner : INT32_MAX);
      return group % static_cast<uint32_t>(channels < INT32_MAX ? channels : INT32_MAX);
    }
    return i / inner % channels;
  }
};

// sums[c] = the sum of x[:, c, :].
struct SumChannels {
  const void* x;    // [outer, channels, inner]
  void* sums;       // [channels], float, or double for float64
  void* workspace;  // sum_channels_workspace doubles
  Channels shape;
  DType dtype;
};

}  // namespace fastgan
