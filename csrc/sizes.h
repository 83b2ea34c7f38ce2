// Sizes that come from Python: checked before anything is computed of them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace fastgan {

// No tensor has so many values, and with up to so many neither bytes, nor workspaces of a few values each, nor sizes
// rounded up to whole tiles reach 2^63. So nothing that a kernel makes of sizes that passed can overflow.
constexpr int64_t kMostNumbers = int64_t{1} << 56;

// Throws where a size is negative, or where the product of all of them, or of some, is more than kMostNumbers.
inline void check_sizes(const char* of, std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  bool fits = true;
  for (const int64_t size : sizes) {
    // An empty tensor may have other sizes of any magnitude: of those, products are taken too.
    fits = fits && size >= 0 &&
           (size < 2 || (!__builtin_mul_overflow(product, size, &product) && product <= kMostNumbers));
  }
  if (fits) return;
  std::string text = std::string("the sizes of ") + of + " are negative, or their product is more than 2^56:";
  for (const int64_t size : sizes) text += " " + std::to_string(size);
  throw std::runtime_error(text);
}

}  // namespace fastgan
