// Up-sampling, FIR filtering and down-sampling of images on CUDA; see ../upfirdn2d.h for the formula.
//
// A block keeps the inputs of a tile of outputs in shared memory, with zeros where they reach over the border. Of a
// separable filter it makes lines first, the sums under the filter of rows, and outputs of these; else outputs at once.
// The filters of two or four taps that networks have are compiled by themselves, so that their loops are unrolled and
// nothing is divided.
#include "launch.cuh"
#include "math.cuh"
#include "packet.cuh"
#include "upfirdn2d_plan.h"

namespace fastgan::cuda {

extern __shared__ uint4 dynamic_shared[];

namespace {

// Filter of both axes that is known when compiled; 0 is read from the arguments.
template <int kUp, int kDown, int kTaps>
struct Known {
  static constexpr int kMost = kTaps == 0 ? 0 : (kTaps - 1) / kUp + 1;

  __device__ static int up(const FilterAxis& a) { return kUp == 0 ? static_cast<int>(a.up) : kUp; }
  __device__ static int down(const FilterAxis& a) { return kDown == 0 ? static_cast<int>(a.down) : kDown; }
  __device__ static int taps(const FilterAxis& a) { return kTaps == 0 ? static_cast<int>(a.taps) : kTaps; }

  // What output o of a tile reads; inputs are counted from the tile's first.
  __device__ static Reach reach(const FilterAxis& a, const ResamplePart& part, int o) {
    return reach_at<int>(part.start + o * down(a), up(a), taps(a));
  }

  // The sum of w[tap], w[tap + up], ... times x, x[step], ...
  template <typename A>
  __device__ static A dot(const FilterAxis& a, const Reach& r, const A* w, const A* x, int step) {
    A sum = 0;
    w += r.tap;
    if constexpr (kMost > 0 && kTaps % kUp == 0) {
#pragma unroll
      for (int t = 0; t < kMost; ++t) sum += w[t * kUp] * x[t * step];
    } else {
      for (int t = 0; t < r.count; ++t) sum += w[t * up(a)] * x[t * step];
    }
    return sum;
  }
};

// A whole filter, on inputs of which a row is `width` values and a column `step`.
template <typename A>
__device__ A dot_rows(const Upfirdn2d& a, const Reach& rows, const Reach& columns, const A* x, int width, int step) {
  A sum = 0;
  for (int s = 0; s < rows.count; ++s) {
    const float* f = a.fy + stored_tap(a.rows, a.flip, rows.tap + s * a.rows.up) * a.columns.taps;
    const A* pixels = x + (static_cast<int>(rows.input) + s) * width;
    for (int t = 0; t < columns.count; ++t) {
      sum += f[stored_tap(a.columns, a.flip, columns.tap + t * a.columns.up)] * pixels[t * step];
    }
  }
  return sum * static_cast<A>(a.gain);
}

// The epilogue of a packet of one channel's values, or of as many channels.
template <typename A, int kPacket>
__device__ __forceinline__ void finish(const Epilogue& after, const BiasActNumbers<A>& by, int channel, bool one,
                                       A (&sums)[kPacket]) {
  const A* b = static_cast<const A*>(after.b);
  dispatch_piecewise_linear(after.act, [&](auto act) {
#pragma unroll
    for (int k = 0; k < kPacket; ++k) {
      const A z = b == nullptr ? sums[k] : sums[k] + b[one ? channel : channel + k];
      sums[k] = bias_act_number<act(), BiasActPart::value, Math>(z, A(0), A(0), by);
    }
  });
}

template <typename T, typename K, bool kSeparable>
__global__ void __launch_bounds__(kResampleThreads, 3)
    upfirdn2d_kernel(const Upfirdn2d a, const ResampleTiles tiles, const BiasActNumbers<Accumulator<T>> by) {
  using A = Accumulator<T>;
  __shared__ A fy[kMaxTaps], fx[kMaxTaps];
  A *image = reinterpret_cast<A*>(dynamic_shared), *lines = image + tiles.image();
  const int thread = threadIdx.x, channels = tiles.channels, width = tiles.in_columns * channels;
  if constexpr (kSeparable) {
    if (thread < a.rows.taps) fy[thread] = a.fy[stored_tap(a.rows, a.flip, thread)];
    if (thread < a.columns.taps) {
      fx[thread] = static_cast<A>(a.fx[stored_tap(a.columns, a.flip, thread)]) * static_cast<A>(a.gain);
    }
  }
  for (int64_t block = blockIdx.x; block < a.planes * tiles.per_plane(); block += gridDim.x) {
    if (block != blockIdx.x) __syncthreads();  // the tile before is no longer read
    const int64_t plane = block / tiles.per_plane(), at = block % tiles.per_plane();
    const int64_t channel = at % tiles.deep * channels;
    const ResamplePart columns = resample_part(a.columns, at / tiles.deep % tiles.along, tiles.columns);
    const ResamplePart rows = resample_part(a.rows, at / tiles.deep / tiles.along, tiles.rows);
    const int first_channel = static_cast<int>(a.inner == 1 && a.after.there ? plane % a.after.channels : channel);
    const int deep = static_cast<int>(a.inner - channel < channels ? a.inner - channel : channels);

    const T* x = static_cast<const T*>(a.x) + plane * a.rows.in * a.columns.in * a.inner + channel;
    for (int i = thread; i < tiles.image(); i += kResampleThreads) {
      const int c = i % channels, column = i / channels % tiles.in_columns, row = i / width;
      const int64_t in_row = rows.from + row, in_column = columns.from + column;
      const bool inside = c < deep && in_row >= 0 && in_row < a.rows.in && in_column >= 0 && in_column < a.columns.in;
      image[i] = inside ? widen(x[(in_row * a.columns.in + in_column) * a.inner + c]) : A(0);
    }
    __syncthreads();
    if constexpr (kSeparable) {
      for (int i = thread; i < rows.count * width; i += kResampleThreads) {
        const int row = i / width;
        const Reach r = K::reach(a.rows, rows, row);
        lines[i] = K::dot(a.rows, r, fy, image + static_cast<int>(r.input) * width + i % width, width);
      }
      __syncthreads();
    }

    // Packets are along the channels, or along the columns where there is one channel.
    T* y = static_cast<T*>(a.y) + plane * a.rows.out * a.columns.out * a.inner + channel;
    const int64_t row_numbers = a.columns.out * a.inner;
    const auto write = [&](auto packet) {
      const int size = tiles.columns * channels / packet;  // packets of a row of the tile
      for (int i = thread; i < rows.count * size; i += kResampleThreads) {
        const int row = i / size, first = i % size * packet, c = first % channels, column = first / channels;
        if (column >= columns.count || c >= deep) continue;
        A sums[packet];
#pragma unroll
        for (int k = 0; k < packet; ++k) {
          const Reach r = K::reach(a.columns, columns, a.inner == 1 ? column + k : column);
          const int from = static_cast<int>(r.input) * channels + (a.inner == 1 ? 0 : c + k);
          if constexpr (kSeparable) {
            sums[k] = K::dot(a.columns, r, fx, lines + row * width + from, channels);
          } else {
            sums[k] = dot_rows<A>(a, K::reach(a.rows, rows, row), r, image + from, width, channels);
          }
        }
        if (a.after.there) finish(a.after, by, first_channel + c, a.inner == 1, sums);
        Packet<T, packet> out;
#pragma unroll
        for (int k = 0; k < packet; ++k) out.x[k] = narrow<T>(sums[k]);
        out.store(y + (rows.begin + row) * row_numbers + (columns.begin + column) * a.inner + c);
      }
    };
    if constexpr (kSeparable) {
      constexpr int kPacket = 16 / sizeof(T);
      const bool whole = (a.inner == 1 ? tiles.columns : channels) % kPacket == 0;
      with_packet<T>(a.inner == 1 ? row_numbers : a.inner, aligned(a.y) && whole, write);
    } else {
      write(std::integral_constant<int, 1>{});
    }
  }
}

template <typename T, typename K, bool kSeparable>
void launch_with(const Upfirdn2d& a, cudaStream_t stream) {
  const ResampleTiles tiles = cut_resample(a, sizeof(Accumulator<T>));
  const size_t shared = (tiles.image() + (kSeparable ? tiles.lines() : 0)) * sizeof(Accumulator<T>);
  const int64_t all = a.planes * tiles.per_plane(), most = 0x7fffffff;
  const dim3 blocks(static_cast<unsigned>(all < most ? all : most));
  launch(upfirdn2d_kernel<T, K, kSeparable>, blocks, kResampleThreads, shared, stream, a, tiles,
         bias_act_numbers<Accumulator<T>>(a.after, widen(narrow<T>(static_cast<Accumulator<T>>(a.after.clamp)))));
}

bool is(const Upfirdn2d& a, int up, int down, int taps) {
  const auto same = [=](const FilterAxis& axis) { return axis.up == up && axis.down == down && axis.taps == taps; };
  return same(a.rows) && same(a.columns);
}

template <typename T>
void run(const Upfirdn2d& a, cudaStream_t stream) {
  if (a.fx == nullptr) return launch_with<T, Known<0, 0, 0>, false>(a, stream);
  if (is(a, 2, 1, 4)) return launch_with<T, Known<2, 1, 4>, true>(a, stream);
  if (is(a, 1, 2, 4)) return launch_with<T, Known<1, 2, 4>, true>(a, stream);
  if (is(a, 1, 1, 4)) return launch_with<T, Known<1, 1, 4>, true>(a, stream);
  if (is(a, 2, 1, 12)) return launch_with<T, Known<2, 1, 12>, true>(a, stream);
  if (is(a, 1, 2, 12)) return launch_with<T, Known<1, 2, 12>, true>(a, stream);
  launch_with<T, Known<0, 0, 0>, true>(a, stream);
}

}  // namespace

void upfirdn2d(const Upfirdn2d& arguments, cudaStream_t stream) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, stream); });
}

}  // namespace fastgan::cuda
