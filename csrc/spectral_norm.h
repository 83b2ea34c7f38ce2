// Spectral norm of a list of matrices: the arguments of one grouped call, and the plan of its workspace.
//
// Every layer is cut into tiles of kTileRows rows. A pass over a tile computes t = W v (`rows`), and / or the tile's
// own share of s = W^T c (`cols`). Shares are kept apart and summed afterwards in the order of the tiles: no atomics,
// and the same bits from any number of threads.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace fastgan {

constexpr int64_t kTileRows = 32;

struct SpectralNormLayer {
  int64_t rows;
  int64_t cols;
  const void* w;     // [rows, cols]
  const void* u;     // [rows]
  const void* v;     // [cols]
  const void* grad;  // [rows, cols], d/d(W / sigma), backward only
  void* w_out;       // [rows, cols], W / sigma; in a backward dW
  void* u_out;       // [rows], forward only
  void* v_out;       // [cols], forward only
  // Set by spectral_norm_plan: where the layer's scratch starts in the workspace, in elements, and its first tile's
  // number.
  int64_t scratch;
  int64_t first_tile;
};

struct SpectralNormForward {
  SpectralNormLayer* layers;
  int64_t count;
  void* sigmas;     // [count], float or double as the workspace
  void* workspace;  // spectral_norm_plan elements of float, or of double for float64 weights
  int iterations;   // 0: sigma of the given u and v
  double eps;
  bool u_first;
  DType dtype;
  DType out_dtype;
};

struct SpectralNormBackward {
  SpectralNormLayer* layers;
  int64_t count;
  const void* sigmas;
  const void* grad_sigmas;  // may be null
  void* workspace;
  DType dtype;
  DType grad_dtype;
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t tile_count(const SpectralNormLayer& layer) { return ceil_div(layer.rows, kTileRows); }

// A layer's scratch: u [rows], t = W v [rows], v [cols], then the tiles' shares of s [tiles, cols].
constexpr int64_t padded(int64_t n) { return ceil_div(n, 16) * 16; }
constexpr int64_t scratch_size(const SpectralNormLayer& layer) {
  return 2 * padded(layer.rows) + (1 + tile_count(layer)) * padded(layer.cols);
}

// Places every layer's scratch and tiles; returns the size of the workspace in elements.
inline int64_t spectral_norm_plan(SpectralNormLayer* layers, int64_t count) {
  int64_t scratch = 0, tiles = 0;
  for (int64_t i = 0; i < count; ++i) {
    layers[i].scratch = scratch;
    layers[i].first_tile = tiles;
    scratch += scratch_size(layers[i]);
    tiles += tile_count(layers[i]);
  }
  return scratch;
}

}  // namespace fastgan
