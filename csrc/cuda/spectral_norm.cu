// Spectral norm of a list of matrices on CUDA: see spectral_norm_plan.h for how the work is cut,
// csrc/cpu/spectral_norm.cpp for the maths.
//
//   pass     t = W v and the parts' shares of s = W^T t, each row read once and held in registers between the two
//   columns  p = s / max(|t|, eps) = W^T u, summed over the parts
//   write    u = t / max(|t|, eps), v = p / max(|p|, eps), sigma = |p| or |t|, W_hat = W / sigma
//   dot, write_gradient   dW = (g - <g, W> / sigma * u v^T) / sigma + dsigma * u v^T
//
// Every sum is taken in an order that the shapes and the number of multiprocessors decide.
#include "launch.cuh"
#include "spectral_norm_pass.cuh"
#include "spectral_norm_write.cuh"

namespace fastgan::cuda {
namespace {

// Shared memory that the kernels of a chunk need for v as staged, and for the values of half a block.
template <typename T>
size_t shared_size(const Chunk& chunk) {
  using H = Hold<T>;
  int team = kThreads / 2;
  for (int i = 0; i < chunk.count; ++i) {
    const int needed = team_size(chunk.layers[i].cols, H::kNumbers);
    if (needed > team) team = needed;
  }
  return team * H::kNumbers * sizeof(typename H::A);
}

unsigned sum_blocks(const Chunk& chunk) {
  int64_t most = 0;
  for (int i = 0; i < chunk.count; ++i) {
    const int64_t blocks = ceil_div(chunk.layers[i].cols, kSumColumns);
    if (blocks > most) most = blocks;
  }
  return static_cast<unsigned>(most < kSumBlocks ? most : kSumBlocks);
}

// Calls f(chunk, its first layer) for each chunk of the layers.
template <typename Arguments, typename F>
void for_each_chunk(const Arguments& a, F f) {
  for (int64_t i = 0; i < a.count; ++i) {  // values of a row are counted in ints
    if (a.layers[i].cols > INT32_MAX) throw std::runtime_error("a weight has more than 2^31 - 1 columns");
  }
  const int count = multiprocessors();
  for (int64_t start = 0; start < a.count; start += kChunkLayers) {
    Chunk chunk = make_chunk(a.layers, start, a.count, count);
    chunk.workspace = a.workspace;
    f(chunk, start);
  }
}

template <typename T>
void forward(const SpectralNormForward& a, cudaStream_t stream) {
  using A = Accumulator<T>;
  for_each_chunk(a, [&](Chunk& chunk, int64_t start) {
    chunk.sigmas = static_cast<A*>(a.sigmas) + start;
    chunk.eps = a.eps;
    chunk.other_dtype = a.out_dtype;
    const size_t shared = shared_size<T>(chunk);
    const bool evaluate = a.iterations == 0;
    bool v_given = true;
    auto pass = [&](bool rows, bool cols) {
      launch(spectral_norm_pass_kernel<T>, dim3(chunk.blocks), kThreads, shared, stream, chunk,
             Pass{rows, cols, v_given, evaluate});
      if (!cols) return;
      launch(spectral_norm_columns_kernel<A>, dim3(sum_blocks(chunk), chunk.count), kThreads, 0, stream, chunk, rows);
      v_given = false;
    };
    if (!evaluate && !a.u_first) pass(false, true);
    for (int i = a.u_first ? 0 : 1; i < a.iterations; ++i) pass(true, true);
    if (evaluate || !a.u_first) pass(true, false);
    launch(spectral_norm_write_kernel<T>, dim3(chunk.blocks, kStreamBlocks), kStreamThreads, 0, stream, chunk,
           Finish{evaluate, a.u_first});
  });
}

template <typename T>
void backward(const SpectralNormBackward& a, cudaStream_t stream) {
  using A = Accumulator<T>;
  for_each_chunk(a, [&](Chunk& chunk, int64_t start) {
    chunk.sigmas = static_cast<A*>(const_cast<void*>(a.sigmas)) + start;
    chunk.grad_sigmas = a.grad_sigmas == nullptr ? nullptr : static_cast<const A*>(a.grad_sigmas) + start;
    chunk.other_dtype = a.grad_dtype;
    launch(spectral_norm_dot_kernel<T>, dim3(chunk.blocks, kStreamBlocks), kStreamThreads, 0, stream, chunk);
    launch(spectral_norm_write_gradient_kernel<T>, dim3(chunk.blocks, kStreamBlocks), kStreamThreads, 0, stream, chunk);
  });
}

}  // namespace

int64_t spectral_norm_plan(SpectralNormLayer* layers, int64_t count) { return plan_layers(layers, count); }

void spectral_norm_forward(const SpectralNormForward& arguments, cudaStream_t stream) {
  dispatch(arguments.dtype, [&](auto t) { forward<decltype(t)>(arguments, stream); });
}

void spectral_norm_backward(const SpectralNormBackward& arguments, cudaStream_t stream) {
  dispatch(arguments.dtype, [&](auto t) { backward<decltype(t)>(arguments, stream); });
}

}  // namespace fastgan::cuda
