// Bias, activation, gain and clamp on the CPU, in chunks: one pass over memory, whatever the dtype and the layout.
#include "../bias_act.h"

#include "activate.h"
#include "math.h"
#include "samples.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

// A chunk of numbers, those of x, dy and ddx of type X.
template <typename X, typename A>
using Chunk = void (*)(const X* x, const A* biases, const X* dy, const X* ddx, A* to, int64_t n,
                       const BiasActNumbers<A>& by);

template <Activation act, BiasActPart part, typename X, typename A>
void compute(const X* x, const A* biases, const X* dy, const X* ddx, A* to, int64_t n,
             const BiasActNumbers<A>& numbers) {
  const BiasActNumbers<A> by = numbers;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const A x_j = load(x[j]), z = at_value(part) ? x_j : x_j + biases[j];
    const A dy_j = has_dy(part) ? A(load(dy[j])) : A(0), ddx_j = has_ddx(part) ? A(load(ddx[j])) : A(0);
    to[j] = bias_act_number<act, part, Math>(z, dy_j, ddx_j, by);
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

// Where few numbers of a channel lie side by side, the biases are written out once: those of a row, and of a chunk
// more, so that a chunk may begin anywhere in a row.
constexpr int64_t kShortRun = 64, kExpanded = (1 << 14) + kChunk;
constexpr bool is_expanded(const Channels& s) { return s.inner < kShortRun && s.row() <= kExpanded - kChunk; }

template <typename A>
void expand(const A* b, const Channels& s, A* expanded) {
  for (int64_t j = 0; j < s.row() + kChunk; ++j) expanded[j] = b[j / s.inner % s.channels];
}

// The biases of n numbers that begin with number `at` of the tensor.
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

// Numbers are computed with as type X, to which those of T are converted before, chunk by chunk.
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
  A expanded[kExpanded];
  const bool from_expanded = b != nullptr && a.shape.numbers() != 0 && is_expanded(a.shape);
  if (from_expanded) expand(b, a.shape, expanded);
  for_each_tile(1, a.shape.numbers(), threads, [&](int64_t, int64_t, int64_t begin, int64_t numbers) {
    X x_buffer[kChunk], dy_buffer[kChunk], ddx_buffer[kChunk];
    A out_buffer[kChunk], spread_out[kChunk] = {};
    int64_t spread_run = -1;  // of numbers of one channel, whose bias fills spread_out
    for (int64_t start = begin; start < begin + numbers; start += kChunk) {
      const int64_t size = begin + numbers - start < kChunk ? begin + numbers - start : kChunk;
      if (b != nullptr && !from_expanded) {
        const int64_t first = start / a.shape.inner, last = (start + size - 1) / a.shape.inner;
        if (first != spread_run || first != last) spread(b, a.shape, start, size, spread_out);
        spread_run = first == last ? first : -1;
      }
      A* to = landing(out + start, out_buffer);
      compute_chunk(widen(x + start, x_buffer, size), from_expanded ? expanded + start % a.shape.row() : spread_out,
                    dy == nullptr ? nullptr : widen(dy + start, dy_buffer, size),
                    ddx == nullptr ? nullptr : widen(ddx + start, ddx_buffer, size), to, size, by);
      narrow(to, out + start, size);
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
