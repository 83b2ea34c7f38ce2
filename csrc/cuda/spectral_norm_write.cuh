// The kernels that stream: W_hat = W / sigma with u, v and sigma; <g, W>; dW.
#pragma once

#include "spectral_norm.cuh"

namespace fastgan::cuda {

// Blocks of a streaming kernel that fit a multiprocessor together; double takes more registers.
template <typename T>
constexpr int kResident = sizeof(T) == 8 ? 2 : kStreamBlocks;

// Reads this thread's packets of a batch; zeros beyond the end.
template <typename X, int kPacket, int kPackets>
__device__ __forceinline__ void load_batch(const X* matrix, const Stream& stream, int64_t batch,
                                           Packet<X, kPacket> (&x)[kPackets]) {
#pragma unroll
  for (int i = 0; i < kPackets; ++i) {
    const int64_t at = packet_at(stream, kPacket, batch, threadIdx.x, i);
    x[i] = {};
    if (at < stream.end) x[i].load(matrix + at);
  }
}

// The same from a matrix whose dtype is known at run time only.
template <typename A, int kPacket, int kPackets>
__device__ __forceinline__ void load_batch(const void* matrix, DType dtype, const Stream& stream, int64_t batch,
                                           Packet<A, kPacket> (&x)[kPackets]) {
  dispatch(dtype, [&](auto type) {
    using X = decltype(type);
    Packet<X, kPacket> raw[kPackets];
    load_batch(static_cast<const X*>(matrix), stream, batch, raw);
#pragma unroll
    for (int i = 0; i < kPackets * kPacket; ++i) {
      x[i / kPacket].x[i % kPacket] = static_cast<A>(widen(raw[i / kPacket].x[i % kPacket]));
    }
  });
}

// Calls f(packet, where it is) for this thread's packets of a batch.
template <typename X, int kPacket, int kPackets, typename F>
__device__ __forceinline__ void for_each_packet(const Stream& stream, int64_t batch,
                                                const Packet<X, kPacket> (&x)[kPackets], F f) {
#pragma unroll
  for (int i = 0; i < kPackets; ++i) {
    const int64_t at = packet_at(stream, kPacket, batch, threadIdx.x, i);
    if (at < stream.end) f(x[i], at);
  }
}

// What the write needs of the last pass.
struct Finish {
  bool evaluate, u_first;
};

template <typename T>
__global__ void __launch_bounds__(kStreamThreads, kResident<T>)
    spectral_norm_write_kernel(const __grid_constant__ Chunk chunk, const Finish finish) {
  using A = Accumulator<T>;
  for (int layer = first_layer(chunk, blockIdx.x);; ++layer) {
    const Part part = part_of(chunk, blockIdx.x, layer);
    if (part.empty()) break;
    const SpectralNormLayer& l = chunk.layers[layer];
    const Scratch<A> s(chunk, l);
    double sigma = total<kStreamThreads>(s.part_sums, part_count(chunk, layer));
    A u_factor = 0, v_factor = 0;
    if (!finish.evaluate) {
      const double t_square = sigma, p_square = total_of_columns<kStreamThreads>(l, s.column_sums);
      const double t_divisor = divisor(t_square, chunk.eps), p_divisor = divisor(p_square, chunk.eps);
      u_factor = static_cast<A>(1 / t_divisor);
      v_factor = static_cast<A>(1 / p_divisor);
      sigma = finish.u_first ? p_square / p_divisor : t_square / t_divisor;
    }
    if (blockIdx.y == 0) {
      const T *u = static_cast<const T*>(l.u), *v = static_cast<const T*>(l.v);
      T *u_out = static_cast<T*>(l.u_out), *v_out = static_cast<T*>(l.v_out);
      for (int64_t i = part.begin + threadIdx.x; i < part.end; i += kStreamThreads) {
        u_out[i] = finish.evaluate ? u[i] : narrow<T>(s.t[i] * u_factor);
      }
      if (part.begin == 0) {
        for (int64_t j = threadIdx.x; j < l.cols; j += kStreamThreads) {
          v_out[j] = finish.evaluate ? v[j] : narrow<T>(s.p[j] * v_factor);
        }
        if (threadIdx.x == 0) static_cast<A*>(chunk.sigmas)[layer] = static_cast<A>(sigma);
      }
    }
    const A by = static_cast<A>(sigma);
    with_packet<T>(l.cols, aligned(l.w) && aligned(l.w_out), [&](auto packet) {
      const Stream stream = make_stream(l, part, packet);
      // From the last batch on: what was read last may still be in the cache.
      for (int64_t batch = stream.batches - 1 - blockIdx.y; batch >= 0; batch -= kStreamBlocks) {
        Packet<T, packet> x[packets_at_once(packet)];
        load_batch(static_cast<const T*>(l.w), stream, batch, x);
        dispatch(chunk.other_dtype, [&](auto o) {
          using O = decltype(o);
          for_each_packet(stream, batch, x, [&](const auto& from, int64_t at) {
            Packet<O, packet> y;
#pragma unroll
            for (int i = 0; i < packet; ++i) y.x[i] = narrow<O>(widen(from.x[i]) / by);
            y.store(static_cast<O*>(l.w_out) + at);
          });
        });
      }
    });
  }
}

// The parts' shares of <g, W>, one for each of the blocks that alternate.
template <typename T>
__global__ void __launch_bounds__(kStreamThreads, kResident<T>)
    spectral_norm_dot_kernel(const __grid_constant__ Chunk chunk) {
  using A = Accumulator<T>;
  for (int layer = first_layer(chunk, blockIdx.x);; ++layer) {
    const Part part = part_of(chunk, blockIdx.x, layer);
    if (part.empty()) break;
    const SpectralNormLayer& l = chunk.layers[layer];
    double sum = 0;
    with_packet<T>(l.cols, aligned(l.w) && aligned(l.grad), [&](auto packet) {
      const Stream stream = make_stream(l, part, packet);
      for (int64_t batch = blockIdx.y; batch < stream.batches; batch += kStreamBlocks) {
        Packet<T, packet> x[packets_at_once(packet)];
        Packet<A, packet> g[packets_at_once(packet)];
        load_batch(static_cast<const T*>(l.w), stream, batch, x);
        load_batch(l.grad, chunk.other_dtype, stream, batch, g);
        A dot = 0;
#pragma unroll
        for (int i = 0; i < packets_at_once(packet) * packet; ++i) {
          dot += g[i / packet].x[i % packet] * widen(x[i / packet].x[i % packet]);
        }
        sum += double(dot);
      }
    });
    sum = block_sum<kStreamThreads>(sum);
    if (threadIdx.x == 0) Scratch<A>(chunk, l).part_sums[part.index * kStreamBlocks + blockIdx.y] = sum;
  }
}

template <typename T>
__global__ void __launch_bounds__(kStreamThreads, kResident<T>)
    spectral_norm_write_gradient_kernel(const __grid_constant__ Chunk chunk) {
  using A = Accumulator<T>;
  for (int layer = first_layer(chunk, blockIdx.x);; ++layer) {
    const Part part = part_of(chunk, blockIdx.x, layer);
    if (part.empty()) break;
    const SpectralNormLayer& l = chunk.layers[layer];
    const T *u = static_cast<const T*>(l.u), *v = static_cast<const T*>(l.v);
    const A sigma = static_cast<const A*>(chunk.sigmas)[layer];
    const double dot = total<kStreamThreads>(Scratch<A>(chunk, l).part_sums, part_count(chunk, layer) * kStreamBlocks);
    A coefficient = static_cast<A>(-dot / (double(sigma) * double(sigma)));
    if (chunk.grad_sigmas != nullptr) coefficient += static_cast<const A*>(chunk.grad_sigmas)[layer];
    with_packet<T>(l.cols, aligned(l.grad) && aligned(l.v) && aligned(l.w_out), [&](auto packet) {
      const Stream stream = make_stream(l, part, packet);
      const Place step = place(kStreamThreads * packet, l.cols);
      for (int64_t batch = stream.batches - 1 - blockIdx.y; batch >= 0; batch -= kStreamBlocks) {
        Packet<A, packet> g[packets_at_once(packet)];
        load_batch(l.grad, chunk.other_dtype, stream, batch, g);
        Place here = place(packet_at(stream, packet, batch, threadIdx.x, 0), l.cols);
        for_each_packet(stream, batch, g, [&](const auto& from, int64_t at) {
          const A factor = coefficient * widen(u[here.row]);
          Packet<T, packet> of_v, y;
          of_v.load(v + here.col);
          here = advance(here, step, l.cols);
#pragma unroll
          for (int i = 0; i < packet; ++i) y.x[i] = narrow<T>(from.x[i] / sigma + factor * widen(of_v.x[i]));
          y.store(static_cast<T*>(l.w_out) + at);
        });
      }
    });
  }
}

}  // namespace fastgan::cuda
