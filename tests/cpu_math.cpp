// The functions of csrc/cpu/math.h over all magnitudes against the C library's in double. Built and run by
// test_activations.py; prints each function's largest error in units in the last place, and fails where it is too
// large.
#include <cmath>
#include <cstdio>
#include <initializer_list>

#include "cpu/math.h"

using fastgan::cpu::base::bits_to_float;
using fastgan::cpu::base::float_to_bits;
using fastgan::cpu::base::Math;

double unit(double x) {
  const float size = static_cast<float>(std::fabs(x));
  return size < 1.17549435e-38f ? 1.4e-45 : std::ldexp(1.0, std::ilogb(size) - 23);
}

template <typename Ours, typename Exact>
bool holds(const char* name, double low, double high, double bound, Ours ours, Exact exact) {
  double worst = 0;
  float where = 0;
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 997) {
    for (const float x : {bits_to_float(bits), -bits_to_float(bits)}) {
      if (x < low || x > high) continue;
      const double truth = exact(static_cast<double>(x));
      const float got = ours(x), rounded = static_cast<float>(truth);
      const double error = got == rounded ? 0 : std::fabs(got - truth) / unit(truth);
      if (!(error <= worst)) {
        worst = error;
        where = x;
      }
    }
  }
  const bool kept = worst <= bound, nan = std::isnan(ours(NAN));
  std::printf("%-8s largest error %.3f at %.9g, bound %.1f%s\n", name, worst, where, bound, nan ? "" : ", loses NaN");
  return kept && nan;
}

int main() {
  bool good = true;
  const auto check = [&](auto name, double low, double high, double bound, auto ours, auto exact) {
    good = holds(name, low, high, bound, ours, exact) && good;
  };
#define CHECK(name, low, high, bound) \
  check(#name, low, high, bound, [](float x) { return Math::name(x); }, [](double x) { return std::name(x); })
  CHECK(exp, -HUGE_VAL, HUGE_VAL, 1.1);
  CHECK(expm1, -HUGE_VAL, 88, 1.6);
  CHECK(tanh, -HUGE_VAL, HUGE_VAL, 2.5);
  CHECK(log1p, 0, 1, 2.0);
  CHECK(erf, -HUGE_VAL, HUGE_VAL, 2.0);
  return good ? 0 : 1;
}
