// t = W v and the parts' shares of s = W^T t: each row is read once and held in registers between the two.
#pragma once

#include "spectral_norm.cuh"

namespace fastgan::cuda {

constexpr int kWarps = kThreads / kWarp;

// Sized at launch: v as staged, or the values of half a block.
extern __shared__ uint4 dynamic_shared[];

// What one thread holds of a row of T.
template <typename T>
struct Hold {
  using A = Accumulator<T>;
  // What leaves registers enough for the arithmetic, without spilling.
  static constexpr int kNumbers = sizeof(T) == 2 ? kColumns : sizeof(T) == 4 ? kColumns - 4 : kColumns / 4;
  static constexpr int kMost = kThreads * kNumbers;  // columns of a row that a block holds
  static constexpr int kPiece = 16 / sizeof(A);
};

template <typename X, int kPacket, int kSlots>
__device__ __forceinline__ void load_row(const X* row, int slots, const Lanes<kPacket>& lanes,
                                         Packet<X, kPacket> (&x)[kSlots]) {
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    x[slot] = {};
    if (slot < slots) x[slot].load(row + column<kPacket>(lanes.team, lanes.lane, slot, 0));
  }
}

// Puts f(j) for the columns j < cols where `staged_index` finds them, and zeros beside them. What was there before has
// been read: every layer ends with the barrier after its t.
template <typename T, int kPacket, typename F>
__device__ __forceinline__ void stage(int team, int cols, F f) {
  using H = Hold<T>;
  auto* staged = reinterpret_cast<typename H::A*>(dynamic_shared);
  for (int i = threadIdx.x; i < team * H::kPiece; i += kThreads) {
    const int lane = i / H::kPiece;
#pragma unroll
    for (int piece = 0; piece < H::kNumbers; piece += H::kPiece) {
      const int number = piece + i % H::kPiece;
      const int j = column<kPacket>(team, lane, number / kPacket, number % kPacket);
      staged[staged_index<H::kPiece>(team, lane, number)] = j < cols ? f(j) : 0;
    }
  }
  __syncthreads();
}

// The sum over the threads of a team; every thread of the block calls. One barrier is enough for two buffers that
// alternate.
template <typename A>
__device__ __forceinline__ A team_sum(A x, int team, A* sums) {
  x = warp_sum(x, team);
  if (team <= kWarp) return x;
  const int warp = threadIdx.x / kWarp, warps = team / kWarp;
  if (threadIdx.x % kWarp == 0) sums[warp] = x;
  __syncthreads();
  // As (warp / warps * warps) and (threadIdx.x % warps), without dividing by what is a power of two.
  return warp_sum(sums[(warp & -warps) + (threadIdx.x & (warps - 1))], warps);
}

// Adds up the values of all teams of a block: the first team holds the sums.
template <typename A, int kNumbers>
__device__ __forceinline__ void fold_teams(int team, A (&x)[kNumbers]) {
  auto* shared = reinterpret_cast<A*>(dynamic_shared);
  const int thread = threadIdx.x;
  for (int half = kThreads / 2; half >= team; half /= 2) {
    __syncthreads();
    if (thread >= half && thread < 2 * half) {
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) shared[i * half + thread - half] = x[i];
    }
    __syncthreads();
    if (thread < half) {
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) x[i] += shared[i * half + thread];
    }
  }
}

struct Pass {
  bool rows, cols;  // compute t = W v; compute s = W^T c, with c = t, or c = u where t is not computed
  bool v_given;     // v is the argument, not p / |p|
  bool evaluate;    // sum u_i t_i over the parts, not t_i^2
};

// v as the passes see it: the argument, or p / |p|.
template <typename T>
struct VectorV {
  using A = Accumulator<T>;
  const T* given;  // or null
  const A* p;
  A factor;
  __device__ VectorV(const T* v) : given(v), p(nullptr), factor(1) {
    if constexpr (std::is_same_v<T, A>) p = v;
  }
  __device__ VectorV(const A* p_, A factor_) : given(nullptr), p(p_), factor(factor_) {}
  __device__ __forceinline__ A operator()(int64_t j) const {
    if constexpr (!std::is_same_v<T, A>) {
      if (given != nullptr) return widen(given[j]);
    }
    return p[j] * factor;
  }
};

// The next row is on its way while this one is worked on, if it comes in whole packets.
template <typename T, int kPacket>
__device__ __forceinline__ void pass_rows(const SpectralNormLayer& l, const Part& part, const Pass& pass,
                                          const VectorV<T>& v, Accumulator<T>* t, Accumulator<T>* share_out) {
  using H = Hold<T>;
  using A = typename H::A;
  constexpr int kSlots = H::kNumbers / kPacket;
  constexpr bool kAhead = kPacket > 1;
  __shared__ A sums[2][kWarps];
  const int cols = static_cast<int>(l.cols);
  const auto lanes = make_lanes<kPacket>(threadIdx.x, cols, H::kNumbers);
  Packet<T, kPacket> x[kSlots], next[kSlots];
  A share[H::kNumbers] = {};
  // Beyond the last row come zeros, and c = 0.
  auto load = [&](int64_t row, Packet<T, kPacket>(&to)[kSlots]) {
    load_row(static_cast<const T*>(l.w) + row * l.cols, row < part.end ? lanes.slots : 0, lanes, to);
  };
  if (kAhead) load(part.begin + lanes.row, next);
  if (pass.rows) stage<T, kPacket>(lanes.team, cols, v);
  int buffer = 0;
  for (int64_t row = part.begin + lanes.row; row - lanes.row < part.end; row += lanes.rows, buffer ^= 1) {
    if (kAhead) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) x[slot] = next[slot];
      load(row + lanes.rows, next);
    } else {
      load(row, x);
    }
    A c = 0;
    if (pass.rows) {
      A dot = 0;
#pragma unroll
      for (int number = 0; number < H::kNumbers; number += H::kPiece) {
        if (column<kPacket>(lanes.team, 0, number / kPacket, 0) < cols) {
          Packet<A, H::kPiece> piece;
          piece.load(reinterpret_cast<A*>(dynamic_shared) + staged_index<H::kPiece>(lanes.team, lanes.lane, number));
#pragma unroll
          for (int i = 0; i < H::kPiece; ++i) {
            dot += widen(x[(number + i) / kPacket].x[(number + i) % kPacket]) * piece.x[i];
          }
        }
      }
      dot = team_sum(dot, lanes.team, sums[buffer]);
      if (row < part.end) {
        c = dot;
        if (lanes.lane == 0) t[row] = c;
      }
    } else if (row < part.end) {
      c = widen(static_cast<const T*>(l.u)[row]);
    }
    if (pass.cols) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        if (column<kPacket>(lanes.team, 0, slot, 0) < cols) {
#pragma unroll
          for (int i = 0; i < kPacket; ++i) share[slot * kPacket + i] += c * widen(x[slot].x[i]);
        }
      }
    }
  }
  if (pass.cols) {
    fold_teams(lanes.team, share);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if (lanes.row == 0 && slot < lanes.slots) {
        Packet<A, kPacket> y;
#pragma unroll
        for (int i = 0; i < kPacket; ++i) y.x[i] = share[slot * kPacket + i];
        y.store(share_out + column<kPacket>(lanes.team, lanes.lane, slot, 0));
      }
    }
  }
}

// Rows that the registers cannot hold: each is read twice, the second time from the cache.
template <typename T, int kPacket>
__device__ __forceinline__ void pass_long_rows(const SpectralNormLayer& l, const Part& part, const Pass& pass,
                                               const VectorV<T>& v, Accumulator<T>* t, Accumulator<T>* share) {
  using A = Accumulator<T>;
  for (int64_t row = part.begin; row < part.end; ++row) {
    const T* w = static_cast<const T*>(l.w) + row * l.cols;
    auto for_each_packet = [&](auto f) {
#pragma unroll 4
      for (int64_t j = threadIdx.x * kPacket; j < l.cols; j += kThreads * kPacket) {
        Packet<T, kPacket> x;
        x.load(w + j);
        f(j, x);
      }
    };
    A c;
    if (pass.rows) {
      double dot = 0;
      for_each_packet([&](int64_t j, const auto& x) {
        A of_packet = 0;
#pragma unroll
        for (int i = 0; i < kPacket; ++i) of_packet += widen(x.x[i]) * v(j + i);
        dot += double(of_packet);
      });
      c = static_cast<A>(block_sum<kThreads>(dot));
      if (threadIdx.x == 0) t[row] = c;
    } else {
      c = widen(static_cast<const T*>(l.u)[row]);
    }
    if (pass.cols) {
      for_each_packet([&](int64_t j, const auto& x) {
        Packet<A, kPacket> y{};
        if (row > part.begin) y.load(share + j);
#pragma unroll
        for (int i = 0; i < kPacket; ++i) y.x[i] += c * widen(x.x[i]);
        y.store(share + j);
      });
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    spectral_norm_pass_kernel(const __grid_constant__ Chunk chunk, const Pass pass) {
  using H = Hold<T>;
  using A = typename H::A;
  for (int layer = first_layer(chunk, blockIdx.x);; ++layer) {
    const Part part = part_of(chunk, blockIdx.x, layer);
    if (part.empty()) break;
    const SpectralNormLayer& l = chunk.layers[layer];
    const Scratch<A> s(chunk, l);
    VectorV<T> v(static_cast<const T*>(l.v));
    if (pass.rows && !pass.v_given) {
      v = VectorV<T>(s.p, static_cast<A>(1 / divisor(total_of_columns<kThreads>(l, s.column_sums), chunk.eps)));
    }
    with_packet<T>(l.cols, aligned(l.w), [&](auto packet) {
      A* share = s.shares + part.index * s.stride;
      if (l.cols <= H::kMost) {
        pass_rows<T, packet>(l, part, pass, v, s.t, share);
      } else {
        pass_long_rows<T, packet>(l, part, pass, v, s.t, share);
      }
    });
    if (pass.rows) {
      __syncthreads();  // t is written, and shared memory has been read
      double sum = 0;
      for (int64_t row = part.begin + threadIdx.x; row < part.end; row += kThreads) {
        sum += double(s.t[row]) * double(pass.evaluate ? widen(static_cast<const T*>(l.u)[row]) : s.t[row]);
      }
      sum = block_sum<kThreads>(sum);
      if (threadIdx.x == 0) s.part_sums[part.index] = sum;
    }
  }
}

// p = scale * sum of the shares, and the sums of p_j^2; grid (blocks, layers). A warp takes every 16th share.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    spectral_norm_columns_kernel(const __grid_constant__ Chunk chunk, const bool normalise) {
  static_assert(kSumColumns == kWarp, "one lane per column");
  __shared__ A sums[kWarps][kWarp];
  const SpectralNormLayer& l = chunk.layers[blockIdx.y];
  if (static_cast<int64_t>(blockIdx.x) * kSumColumns >= l.cols) return;
  const Scratch<A> s(chunk, l);
  const int parts = part_count(chunk, blockIdx.y), lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const double scale = normalise ? 1 / divisor(total<kThreads>(s.part_sums, parts), chunk.eps) : 1;
  double square = 0;
  for (int64_t start = static_cast<int64_t>(blockIdx.x) * kSumColumns; start < l.cols;
       start += static_cast<int64_t>(gridDim.x) * kSumColumns) {
    const int64_t j = start + lane;
    A sum = 0;
    if (j < l.cols) {
#pragma unroll 8
      for (int part = warp; part < parts; part += kWarps) sum += s.shares[part * s.stride + j];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && j < l.cols) {
      A whole = 0;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) whole += sums[i][lane];
      whole = static_cast<A>(whole * scale);
      s.p[j] = whole;
      square += double(whole) * double(whole);
    }
    __syncthreads();
  }
  square = warp_sum(square);
  if (threadIdx.x == 0) s.column_sums[blockIdx.x] = square;
}

}  // namespace fastgan::cuda
