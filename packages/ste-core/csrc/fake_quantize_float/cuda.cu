#include "elements.h"
#include "kernels.h"

#include "../fake_quantize/cuda_function.cuh"
#include "../memory/cuda_backward.cuh"
#include "../memory/cuda_forward.cuh"

#include <ATen/Dispatch.h>

namespace ste::cuda {
namespace {

template <typename W>
struct FakeQuantizeFloatGradient {
  element::FloatEndsIn<W> ends;

  C10_HOST_DEVICE By<W> operator()(W g, W x, W scale, W zero_point) const {
    const auto by = element::fake_quantize_backward(g, x, ends.grid(scale, zero_point));
    return {by.x, by.scale, by.zero_point};
  }
};

at::Tensor fake_quantize_float(const at::Tensor& x, const Arguments<2>& parameters, const FloatEnds& ends) {
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize_float", [&] {
    using W = at::opmath_type<scalar_t>;
    using Ends = element::FloatEndsIn<W>;
    return forward<scalar_t, W>(x, parameters, FakeQuantize<scalar_t, W, Ends>{Ends(ends)});
  });
}

std::array<at::Tensor, 3> fake_quantize_float_backward(
    const at::Tensor& g, const at::Tensor& x, const Arguments<2>& parameters, const std::array<bool, 3>& needed,
    double factor, const FloatEnds& ends) {
  return AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize_float_backward", [&] {
        using W = at::opmath_type<scalar_t>;
        const FakeQuantizeFloatGradient<W> gradient{element::FloatEndsIn<W>(ends)};
        return backward<scalar_t, W>(gradient, g, x, parameters, needed, factor);
      });
}

[[maybe_unused]] const bool entered =
    (FakeQuantizeFloatKernel::cuda = &fake_quantize_float,
     FakeQuantizeFloatAtRandomKernel::cuda = &fake_quantize_at_random<element::FloatEndsIn>,
     FakeQuantizeFloatBackwardKernel::cuda = &fake_quantize_float_backward, true);

}  // namespace
}  // namespace ste::cuda
