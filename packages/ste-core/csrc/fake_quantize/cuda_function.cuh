// x on a grid, on a CUDA device.
#pragma once

#include "elements.h"

#include "../memory/cuda_iterator.cuh"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>

namespace ste::cuda {

// For the kernels of memory/cuda_forward.cuh.
template <typename T, typename W, typename Ends>
struct FakeQuantize {
  Ends ends;

  C10_HOST_DEVICE T operator()(T x, W scale, W zero_point) const {
    return static_cast<T>(element::fake_quantize(static_cast<W>(x), ends.grid(scale, zero_point)));
  }
};

// The same, with a random number for each element, in any layout. `Ends(ends)` are the ends in the dtype of the
// computation.
template <template <typename> typename EndsIn, typename Ends>
at::Tensor fake_quantize_at_random(const at::Tensor& x, const Arguments<3>& arguments, const Ends& ends) {
  const c10::cuda::CUDAGuard guard(x.device());
  auto iterator = iterator_of(x, *arguments[0], *arguments[1], *arguments[2]);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize_at_random", [&] {
    using W = at::opmath_type<scalar_t>;
    const EndsIn<W> in_wide(ends);
    at::native::gpu_kernel_nocast(
        iterator, [in_wide] GPU_LAMBDA(scalar_t value, W scale, W zero_point, W random) -> scalar_t {
          const auto grid = in_wide.grid(scale, zero_point);
          return static_cast<scalar_t>(element::fake_quantize_at_random(static_cast<W>(value) / scale, random, grid));
        });
  });
  return iterator.output();
}

}  // namespace ste::cuda
