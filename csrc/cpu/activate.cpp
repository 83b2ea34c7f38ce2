#include "activate.h"

#include "math.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

template <typename A>
void run(Activation kind, const A* z, const A* dy, A alpha, A* to, int64_t n) {
  dispatch_activation(kind, [&](auto act) {
    if (dy != nullptr) {
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) to[j] = chained<act(), Math>(z[j], dy[j], alpha);
    } else if (act() != Activation::linear || z != to) {
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) to[j] = activation<act(), Math>(z[j], alpha);
    }
  });
}

}  // namespace

void activate(Activation kind, const float* z, const float* dy, float alpha, float* to, int64_t n) {
  run(kind, z, dy, alpha, to, n);
}
void activate(Activation kind, const double* z, const double* dy, double alpha, double* to, int64_t n) {
  run(kind, z, dy, alpha, to, n);
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
