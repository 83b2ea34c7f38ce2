// Bias, activation, gain and clamp on the CPU, in chunks: one pass over memory, whatever the dtype and the layout.
#include "../bias_act.h"

#include "math.h"
#include "samples.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

// A chunk: z = x + shift, with as many numbers as all the others.
template <typename A>
using Chunk = void (*)(const A* x, A shift, const A* dy, const A* ddx, A* to, int64_t n, const BiasActNumbers<A>& by);

template <Activation act, BiasActPart part, typename A>
void compute(const A* x, A shift, const A* dy, const A* ddx, A* to, int64_t n, const BiasActNumbers<A>& numbers) {
  const BiasActNumbers<A> by = numbers;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const A dy_j = has_dy(part) ? dy[j] : A(0), ddx_j = has_ddx(part) ? ddx[j] : A(0);
    to[j] = bias_act_number<act, part, Math>(x[j] + shift, dy_j, ddx_j, by);
  }
}

template <typename A>
Chunk<A> choose(Activation kind, BiasActPart part) {
  Chunk<A> chosen = nullptr;
  dispatch_activation(kind, [&](auto act) {
    constexpr Chunk<A> parts[kBiasActParts] = {
        compute<act(), BiasActPart::value, A>,
        compute<act(), BiasActPart::slope, A>,
        compute<act(), BiasActPart::slope_at_value, A>,
        compute<act(), BiasActPart::curvature, A>,
        compute<act(), BiasActPart::curvature_at_value, A>,
    };
    chosen = parts[static_cast<int>(part)];
  });
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

// to = x + b for n numbers that begin with number `at` of the tensor.
template <typename A>
void add_bias(const A* x, const A* b, const Channels& shape, int64_t at, int64_t n, A* to) {
  int64_t c = at / shape.inner % shape.channels, left = shape.inner - at % shape.inner;
  for (int64_t j = 0; j < n;) {
    const int64_t end = left < n - j ? j + left : n;
    const A shift = b[c];
#pragma omp simd
    for (int64_t k = j; k < end; ++k) to[k] = x[k] + shift;
    j = end;
    left = shape.inner;
    c = c + 1 == shape.channels ? 0 : c + 1;
  }
}

template <typename T>
void run(const BiasAct& a, int threads) {
  using A = typename Accumulator<T>::type;
  const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy), *ddx = static_cast<const T*>(a.ddx);
  const A* b = static_cast<const A*>(a.b);
  T* out = static_cast<T*>(a.out);
  T clamp;
  store(static_cast<A>(a.clamp), &clamp);
  const BiasActNumbers<A> by = bias_act_numbers<A>(a, load(clamp));
  const Chunk<A> compute_chunk = choose<A>(a.act, a.part);
  A expanded[kExpanded];
  const bool from_expanded = b != nullptr && a.shape.numbers() != 0 && is_expanded(a.shape);
  if (from_expanded) expand(b, a.shape, expanded);
  for_each_tile(1, a.shape.numbers(), threads, [&](int64_t, int64_t, int64_t begin, int64_t numbers) {
    A x_buffer[kChunk], dy_buffer[kChunk], ddx_buffer[kChunk], out_buffer[kChunk];
    for (int64_t start = begin; start < begin + numbers; start += kChunk) {
      const int64_t size = begin + numbers - start < kChunk ? begin + numbers - start : kChunk;
      const A* z = widen(x + start, x_buffer, size);
      A shift = 0;
      if (from_expanded) {
        const A* biases = expanded + start % a.shape.row();
#pragma omp simd
        for (int64_t j = 0; j < size; ++j) x_buffer[j] = z[j] + biases[j];
        z = x_buffer;
      } else if (b != nullptr && a.shape.inner - start % a.shape.inner >= size) {
        shift = b[start / a.shape.inner % a.shape.channels];
      } else if (b != nullptr) {
        add_bias(z, b, a.shape, start, size, x_buffer);
        z = x_buffer;
      }
      A* to = landing(out + start, out_buffer);
      compute_chunk(z, shift, dy == nullptr ? nullptr : widen(dy + start, dy_buffer, size),
                    ddx == nullptr ? nullptr : widen(ddx + start, ddx_buffer, size), to, size, by);
      narrow(to, out + start, size);
    }
  });
}

}  // namespace

void bias_act(const BiasAct& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, threads); });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
