// x on a grid, to give to the kernels of memory/cuda_forward.cuh.
#pragma once

#include "elements.h"

namespace ste::cuda {

template <typename T, typename W, typename Ends>
struct FakeQuantize {
  Ends ends;

  C10_HOST_DEVICE T operator()(T x, W scale, W zero_point) const {
    return static_cast<T>(element::fake_quantize(static_cast<W>(x), ends.grid(scale, zero_point)));
  }
};

}  // namespace ste::cuda
