// How a batch of samples is cut among threads: every sample into tiles, whatever the number of threads.
#pragma once

#include "../samples.h"
#include "convert.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {

constexpr int64_t kTile = 1 << 14;   // values of a sample that a thread takes at a time
constexpr int64_t kChunk = 1024;     // values converted at a time
constexpr int64_t kAlone = 1 << 15;  // up to so many values one thread is faster than several

static inline int64_t sample_tiles(int64_t size) { return size <= kTile ? 1 : (size + kTile - 1) / kTile; }

// Calls f(sample, tile, where it starts in the tensor, its size) for every tile of every sample, in parallel.
template <typename F>
static inline void for_each_tile(int64_t count, int64_t size, int threads, F f) {
  const int64_t tiles = sample_tiles(size), all = count * tiles;
#pragma omp parallel for schedule(static) num_threads(threads) if (count * size > kAlone)
  for (int64_t i = 0; i < all; ++i) {
    const int64_t n = tiles == 1 ? i : i / tiles, tile = i - n * tiles, begin = tile * kTile;
    f(n, tile, n * size + begin, size - begin < kTile ? size - begin : kTile);
  }
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
