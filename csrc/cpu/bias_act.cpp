// Bias, activation, gain and clamp on the CPU, in chunks: one pass over memory, whatever the dtype and the layout.
#include "../bias_act.h"

#include "activate.h"
#include "math.h"
#include "samples.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

// A chunk of values, those of x, dy and ddx of type X. Each has a bias of its own, or all have the same one where
// biases is null.
template <typename X, typename A>
using Chunk = void (*)(const X* x, const A* biases, A bias, const X* dy, const X* ddx, A* to, int64_t n,
                       const BiasActNumbers<A>& by);

template <Activation act, BiasActPart part, bool kOwn, typename X, typename A>
void compute_all(const X* x, const A* biases, A bias, const X* dy, const X* ddx, A* to, int64_t n,
                 const BiasActNumbers<A>& numbers) {
  const BiasActNumbers<A> by = numbers;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const A x_j = load(x[j]), z = at_value(part) ? x_j : x_j + (kOwn ? biases[j] : bias);
    const A dy_j = has_dy(part) ? A(load(dy[j])) : A(0), ddx_j = has_ddx(part) ? A(load(ddx[j])) : A(0);
    to[j] = bias_act_number<act, part, Math>(z, dy_j, ddx_j, by);
  }
}

template <Activation act, BiasActPart part, typename X, typename A>
void compute(const X* x, const A* biases, A bias, const X* dy, const X* ddx, A* to, int64_t n,
             const BiasActNumbers<A>& by) {
  if (at_value(part) || biases == nullptr) {
    compute_all<act, part, false>(x, biases, bias, dy, ddx, to, n, by);
  } else {
    compute_all<act, part, !at_value(part)>(x, biases, bias, dy, ddx, to, n, by);
  }
}

template <typename X, typename A>
Chunk<X, A> choose(Activation kind, BiasActPart part) {
  Chunk<X, A> chosen = nullptr;
  const auto choose_part = [&](auto act) {
    constexpr Chunk<X, A> parts[kBiasActParts] = {
        compute<act(), BiasActPart::value, X, A>,
        compute<act(), BiasActPart::slope, X, A>,
        compute<act(), BiasActPart::slope_at_value, X, A>,
        compute<act(), BiasActPart::curvature, X, A>,
        compute<act(), BiasActPart::curvature_at_value, X, A>,
    };
    chosen = parts[static_cast<int>(part)];
  };
  if constexpr (std::is_same_v<X, A>) {
    dispatch_activation(kind, choose_part);
  } else {
    dispatch_joined(kind, choose_part);
  }
  return chosen;
}

// Where few values of a channel are adjacent, the biases are written out: once for a row and a chunk more, so that
// a chunk may begin anywhere in a row, or for every tile where a row is longer than one.
constexpr int64_t kShortRun = 64;

// The biases of n values that begin with number `at` of the tensor.
template <typename A>
void spread(const A* b, const Channels& shape, int64_t at, int64_t n, A* to) {
  int64_t c = at / shape.inner % shape.channels, left = shape.inner - at % shape.inner;
  for (int64_t j = 0; j < n;) {
    const int64_t end = left < n - j ? j + left : n;
    for (; j < end; ++j) to[j] = b[c];
    left = shape.inner;
    c = c + 1 == shape.channels ? 0 : c + 1;
  }
}

// Values are computed with as type X, to which those of T are converted before, chunk by chunk.
template <typename T, typename X>
void run(const BiasAct& a, int threads) {
  using A = typename Accumulator<T>::type;
  const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy), *ddx = static_cast<const T*>(a.ddx);
  const A* b = static_cast<const A*>(a.b);
  T* out = static_cast<T*>(a.out);
  T clamp;
  store(static_cast<A>(a.clamp), &clamp);
  const BiasActNumbers<A> by = bias_act_numbers<A>(a, load(clamp));
  const Chunk<X, A> compute_chunk = choose<X, A>(a.act, a.part);
  const int64_t row = a.shape.row();
  const bool spreads = b != nullptr && a.shape.inner < kShortRun, once = spreads && row <= kTile;
  A row_biases[kTile + kChunk];
  if (once && a.shape.numbers() != 0) spread(b, a.shape, 0, row + kChunk, row_biases);
  for_each_tile(1, a.shape.numbers(), threads, [&](int64_t, int64_t, int64_t begin, int64_t numbers) {
    X x_buffer[kChunk], dy_buffer[kChunk], ddx_buffer[kChunk];
    A out_buffer[kChunk], tile_biases[kTile];
    if (spreads && !once) spread(b, a.shape, begin, numbers, tile_biases);
    for (int64_t at = begin, size; at < begin + numbers; at += size) {
      size = begin + numbers - at < kChunk ? begin + numbers - at : kChunk;
      const A* biases = once ? row_biases + at % row : (spreads ? tile_biases + (at - begin) : nullptr);
      A bias = 0;
      if (b != nullptr && !spreads) {
        const int64_t left = a.shape.inner - at % a.shape.inner;
        if (left < size) size = left;
        bias = b[at / a.shape.inner % a.shape.channels];
      }
      A* to = landing(out + at, out_buffer);
      compute_chunk(widen(x + at, x_buffer, size), biases, bias,
                    dy == nullptr ? nullptr : widen(dy + at, dy_buffer, size),
                    ddx == nullptr ? nullptr : widen(ddx + at, ddx_buffer, size), to, size, by);
      narrow(to, out + at, size);
    }
  });
}

}  // namespace

void bias_act(const BiasAct& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) {
    using T = decltype(t);
    using A = typename Accumulator<T>::type;
    joins(arguments.act) ? run<T, Direct<T>>(arguments, threads) : run<T, A>(arguments, threads);
  });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
