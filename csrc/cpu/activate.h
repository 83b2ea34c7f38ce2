// The loops over activations that ops share; csrc/cpu/activate.cpp holds them once for every type.
#pragma once

#include <cstdint>

#include "../activations.h"
#include "level.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {

// to = f(z), or f'(z) dy where dy is not null, of n numbers; z may be where the results go.
void activate(Activation kind, const float* z, const float* dy, float alpha, float* to, int64_t n);
void activate(Activation kind, const double* z, const double* dy, double alpha, double* to, int64_t n);

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
