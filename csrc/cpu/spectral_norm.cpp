// Spectral norm of a list of matrices on the CPU: see csrc/spectral_norm.h for the tiles.
//
//   u_first:  t = W v, s = W^T t in one read of W;  u = t / |t|;  p = s / |t| = W^T u;  v = p / |p|;  sigma = <v, p> =
//   |p| v_first:  s = W^T u;  v = s / |s|;  t = W v;  u = t / |t|;  sigma = <u, t> = |t| then      W_hat = W / sigma;
//   backward  dW = (g - <g, W> / sigma * u v^T) / sigma + dsigma * u v^T
//
// Every |x| that divides is max(|x|, eps).
#include "../spectral_norm.h"

#include <cmath>

#include "convert.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

constexpr int64_t kRows = 4;              // rows that share one read of v, or of s
constexpr int64_t kLanes = 16;            // sums kept next to each other, for the vector unit
constexpr int64_t kChunk = 1024;          // columns converted at a time
constexpr int64_t kSmallBytes = 1 << 20;  // a layer that a core's second-level cache holds, or most of

template <typename A>
struct Scratch {
  A *u, *t, *v, *shares;
  int64_t stride;  // of the tiles' shares
  Scratch(const SpectralNormLayer& l, void* workspace) {
    u = static_cast<A*>(workspace) + l.scratch;
    t = u + padded(l.rows);
    v = t + padded(l.rows);
    shares = v + padded(l.cols);
    stride = padded(l.cols);
  }
};

int64_t tile_end(const SpectralNormLayer& l, int64_t tile) {
  return l.rows < (tile + 1) * kTileRows ? l.rows : (tile + 1) * kTileRows;
}

// Calls f(layer, tile, number of the layer) for every tile of every layer, in parallel; backwards it meets in the cache
// what was read last.
template <typename F>
void for_each_tile(const SpectralNormLayer* layers, int64_t count, bool backwards, int threads, F f) {
  const int64_t tiles = layers[count - 1].first_tile + tile_count(layers[count - 1]);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t k = 0; k < tiles; ++k) {
    const int64_t tile = backwards ? tiles - 1 - k : k;
    int64_t low = 0, high = count - 1;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (layers[middle].first_tile <= tile) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    f(layers[low], tile - layers[low].first_tile, low);
  }
}

// dots[r] = <x_r, y_r> over N rows; the sums are taken in the same order whatever runs beside them.
template <int N, typename A, typename X, typename Y>
void dot_rows(const X* x, int64_t x_stride, const Y* y, int64_t y_stride, int64_t n, A* dots) {
  A sums[N][kLanes] = {}, x_buffer[N][kChunk], y_buffer[N][kChunk];
  A tail[N] = {};
  for (int64_t start = 0; start < n; start += kChunk) {
    const int64_t size = n - start < kChunk ? n - start : kChunk, whole = size / kLanes * kLanes;
    const A *xs[N], *ys[N];
    for (int r = 0; r < N; ++r) {
      xs[r] = widen(x + r * x_stride + start, x_buffer[r], size);
      ys[r] = y_stride == 0 && r > 0 ? ys[0] : widen(y + r * y_stride + start, y_buffer[r], size);
    }
    for (int64_t j = 0; j < whole; j += kLanes) {
      for (int r = 0; r < N; ++r) {
#pragma omp simd
        for (int64_t lane = 0; lane < kLanes; ++lane) sums[r][lane] += xs[r][j + lane] * ys[r][j + lane];
      }
    }
    for (int64_t j = whole; j < size; ++j) {
      for (int r = 0; r < N; ++r) tail[r] += xs[r][j] * ys[r][j];
    }
  }
  for (int r = 0; r < N; ++r) {
    A sum = tail[r];
    for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[r][lane];
    dots[r] = sum;
  }
}

// s += sum over N rows of c[r] * x_r.
template <int N, typename A, typename T>
void add_rows(const T* x, int64_t stride, const A* c, int64_t n, A* s) {
  A buffer[N][kChunk];
  for (int64_t start = 0; start < n; start += kChunk) {
    const int64_t size = n - start < kChunk ? n - start : kChunk;
    const A* xs[N];
    for (int r = 0; r < N; ++r) xs[r] = widen(x + r * stride + start, buffer[r], size);
    A* out = s + start;
#pragma omp simd
    for (int64_t j = 0; j < size; ++j) {
      A sum = out[j];
      for (int r = 0; r < N; ++r) sum += c[r] * xs[r][j];
      out[j] = sum;
    }
  }
}

enum class Pass { rows, cols, both };

template <int N, typename T, typename A>
void pass_rows(const T* w, int64_t cols, const Scratch<A>& s, int64_t row, A* share, Pass pass) {
  if (pass != Pass::cols) dot_rows<N>(w, cols, s.v, 0, cols, s.t + row);
  if (pass != Pass::rows) add_rows<N>(w, cols, (pass == Pass::both ? s.t : s.u) + row, cols, share);
}

template <typename T, typename A>
void pass_tiles(const SpectralNormForward& a, Pass pass, bool backwards, int threads) {
  for_each_tile(a.layers, a.count, backwards, threads, [&](const SpectralNormLayer& l, int64_t tile, int64_t) {
    const Scratch<A> s(l, a.workspace);
    const T* w = static_cast<const T*>(l.w);
    A* share = s.shares + tile * s.stride;
    if (pass != Pass::rows) {
      for (int64_t j = 0; j < l.cols; ++j) share[j] = 0;
    }
    const int64_t end = tile_end(l, tile);
    int64_t row = tile * kTileRows;
    for (; row + kRows <= end; row += kRows) pass_rows<kRows>(w + row * l.cols, l.cols, s, row, share, pass);
    for (; row < end; ++row) pass_rows<1>(w + row * l.cols, l.cols, s, row, share, pass);
  });
}

template <typename A>
double norm(const A* x, int64_t n) {
  double sums[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += double(x[j + lane]) * double(x[j + lane]);
  }
  double sum = 0;
  for (; j < n; ++j) sum += double(x[j]) * double(x[j]);
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return std::sqrt(sum);
}

// y = x / max(|x|, eps); returns <y, x>. A NaN stays one: the comparison keeps it.
template <typename A>
double normalize(const A* x, double scale, double eps, int64_t n, A* y) {
  const double length = norm(x, n) * scale, divisor = length < eps ? eps : length;
  const A factor = static_cast<A>(scale / divisor);
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) y[j] = x[j] * factor;
  return length * length / divisor;
}

// After a pass: sums the shares, normalises u and v, and leaves sigma as it stands.
template <typename A>
void finish_pass(const SpectralNormForward& a, Pass pass, int threads) {
  A* sigmas = static_cast<A*>(a.sigmas);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < a.count; ++i) {
    const SpectralNormLayer& l = a.layers[i];
    const Scratch<A> s(l, a.workspace);
    double scale = 1;
    if (pass != Pass::cols) {
      const double length = norm(s.t, l.rows);
      scale = 1 / (length < a.eps ? a.eps : length);
      sigmas[i] = static_cast<A>(normalize(s.t, 1.0, a.eps, l.rows, s.u));
    }
    if (pass != Pass::rows) {
      for (int64_t j = 0; j < l.cols; ++j) s.v[j] = s.shares[j];
      for (int64_t tile = 1; tile < tile_count(l); ++tile) {
        const A* share = s.shares + tile * s.stride;
#pragma omp simd
        for (int64_t j = 0; j < l.cols; ++j) s.v[j] += share[j];
      }
      sigmas[i] = static_cast<A>(normalize(s.v, scale, a.eps, l.cols, s.v));
    }
  }
}

// sigma = <u, W v> for the given u and v.
template <typename A>
void finish_evaluation(const SpectralNormForward& a) {
  for (int64_t i = 0; i < a.count; ++i) {
    const Scratch<A> s(a.layers[i], a.workspace);
    dot_rows<1>(s.u, 0, s.t, 0, a.layers[i].rows, static_cast<A*>(a.sigmas) + i);
  }
}

template <typename T, typename A, typename Arguments>
void load_vectors(const Arguments& a) {
  for (int64_t i = 0; i < a.count; ++i) {
    const SpectralNormLayer& l = a.layers[i];
    const Scratch<A> s(l, a.workspace);
    const T *u = static_cast<const T*>(l.u), *v = static_cast<const T*>(l.v);
    for (int64_t j = 0; j < l.rows; ++j) s.u[j] = static_cast<A>(load(u[j]));
    for (int64_t j = 0; j < l.cols; ++j) s.v[j] = static_cast<A>(load(v[j]));
  }
}

template <typename T, typename O, typename A>
void write_tiles(const SpectralNormForward& a, bool backwards, int threads) {
  for_each_tile(a.layers, a.count, backwards, threads, [&](const SpectralNormLayer& l, int64_t tile, int64_t i) {
    const Scratch<A> s(l, a.workspace);
    const A sigma = static_cast<const A*>(a.sigmas)[i];
    const int64_t begin = tile * kTileRows, end = tile_end(l, tile);
    A buffer[kChunk], out_buffer[kChunk];
    const T* w = static_cast<const T*>(l.w);
    O* out = static_cast<O*>(l.w_out);
    // The rows of a tile are one after the other, in the input and in the output.
    for (int64_t j = begin * l.cols; j < end * l.cols; j += kChunk) {
      const int64_t size = end * l.cols - j < kChunk ? end * l.cols - j : kChunk;
      const A* x = widen(w + j, buffer, size);
      A* y = landing(out + j, out_buffer);
#pragma omp simd
      for (int64_t k = 0; k < size; ++k) y[k] = x[k] / sigma;
      narrow(y, out + j, size);
    }
    narrow(s.u + begin, static_cast<T*>(l.u_out) + begin, end - begin);
    if (tile == 0) narrow(s.v, static_cast<T*>(l.v_out), l.cols);
  });
}

template <typename T, typename A>
void forward(const SpectralNormForward& a, int threads) {
  load_vectors<T, A>(a);
  bool backwards = false;
  auto run = [&](Pass pass) {
    pass_tiles<T, A>(a, pass, backwards, threads);
    backwards = !backwards;
  };
  auto iterate = [&](Pass pass) {
    run(pass);
    finish_pass<A>(a, pass, threads);
  };
  if (a.iterations == 0) {
    run(Pass::rows);
    finish_evaluation<A>(a);
  } else {
    if (!a.u_first) iterate(Pass::cols);
    for (int k = a.u_first ? 0 : 1; k < a.iterations; ++k) iterate(Pass::both);
    if (!a.u_first) iterate(Pass::rows);
  }
  dispatch(a.out_dtype, [&](auto o) { write_tiles<T, decltype(o), A>(a, backwards, threads); });
}

template <typename T, typename G, typename A>
void backward(const SpectralNormBackward& a, int threads) {
  load_vectors<T, A>(a);
  // <g, W> row by row, into t.
  for_each_tile(a.layers, a.count, false, threads, [&](const SpectralNormLayer& l, int64_t tile, int64_t) {
    const Scratch<A> s(l, a.workspace);
    const T* w = static_cast<const T*>(l.w);
    const G* g = static_cast<const G*>(l.grad);
    for (int64_t row = tile * kTileRows; row < tile_end(l, tile); ++row) {
      dot_rows<1>(g + row * l.cols, 0, w + row * l.cols, 0, l.cols, s.t + row);
    }
  });
  for_each_tile(a.layers, a.count, true, threads, [&](const SpectralNormLayer& l, int64_t tile, int64_t i) {
    const Scratch<A> s(l, a.workspace);
    const G* g = static_cast<const G*>(l.grad);
    T* dw = static_cast<T*>(l.w_out);
    const A sigma = static_cast<const A*>(a.sigmas)[i];
    double dot = 0;
    for (int64_t row = 0; row < l.rows; ++row) dot += s.t[row];
    double coefficient = -dot / (double(sigma) * double(sigma));
    if (a.grad_sigmas != nullptr) coefficient += static_cast<const A*>(a.grad_sigmas)[i];
    A buffer[kChunk], out_buffer[kChunk];
    for (int64_t row = tile * kTileRows; row < tile_end(l, tile); ++row) {
      const A factor = static_cast<A>(coefficient * s.u[row]);
      for (int64_t start = 0; start < l.cols; start += kChunk) {
        const int64_t size = l.cols - start < kChunk ? l.cols - start : kChunk;
        const A *x = widen(g + row * l.cols + start, buffer, size), *v = s.v + start;
        A* y = landing(dw + row * l.cols + start, out_buffer);
#pragma omp simd
        for (int64_t j = 0; j < size; ++j) y[j] = x[j] / sigma + factor * v[j];
        narrow(y, dw + row * l.cols + start, size);
      }
    }
  });
}

// Whether every thread should take whole layers, one after the other: a small layer stays in its core's cache from one
// phase to the next, and no thread waits between phases. The order of every sum is the same either way.
template <typename A>
bool by_layer(const SpectralNormLayer* layers, int64_t count, int threads) {
  int64_t total = 0, largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size = layers[i].rows * layers[i].cols;
    total += size;
    if (size > largest) largest = size;
  }
  // The last layer to finish may keep one thread longer than the others, by half of its share at most.
  return threads > 1 && largest * int64_t(sizeof(A)) <= kSmallBytes && 2 * largest * threads <= total;
}

template <typename A>
void point_at_sigma(SpectralNormForward& a, int64_t i) {
  a.sigmas = static_cast<A*>(a.sigmas) + i;
}

template <typename A>
void point_at_sigma(SpectralNormBackward& a, int64_t i) {
  a.sigmas = static_cast<const A*>(a.sigmas) + i;
  if (a.grad_sigmas != nullptr) a.grad_sigmas = static_cast<const A*>(a.grad_sigmas) + i;
}

// Calls f(arguments of that layer alone) for every layer, in parallel.
template <typename A, typename Arguments, typename F>
void for_each_layer(const Arguments& arguments, int threads, F f) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < arguments.count; ++i) {
    SpectralNormLayer layer = arguments.layers[i];
    layer.first_tile = 0;
    Arguments alone = arguments;
    alone.layers = &layer;
    alone.count = 1;
    point_at_sigma<A>(alone, i);
    f(alone);
  }
}

}  // namespace

void spectral_norm_forward(const SpectralNormForward& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) {
    using T = decltype(t);
    using A = typename Accumulator<T>::type;
    if (by_layer<A>(arguments.layers, arguments.count, threads)) {
      for_each_layer<A>(arguments, threads, [](const SpectralNormForward& alone) { forward<T, A>(alone, 1); });
    } else {
      forward<T, A>(arguments, threads);
    }
  });
}

void spectral_norm_backward(const SpectralNormBackward& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) {
    dispatch(arguments.grad_dtype, [&](auto g) {
      using T = decltype(t);
      using A = typename Accumulator<T>::type;
      if (by_layer<A>(arguments.layers, arguments.count, threads)) {
        for_each_layer<A>(arguments, threads,
                          [](const SpectralNormBackward& alone) { backward<T, decltype(g), A>(alone, 1); });
      } else {
        backward<T, decltype(g), A>(arguments, threads);
      }
    });
  });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
