// The codes by which Python names a dtype; they stand again in fastgan/_native.py.
#pragma once

namespace fastgan {

enum class DType : int { float64 = 0, float32 = 1, bfloat16 = 2, float16 = 3 };

}  // namespace fastgan
