#include "cuda_function.cuh"
#include "elements.h"
#include "kernels.h"

#include "../memory/cuda_backward.cuh"
#include "../memory/cuda_forward.cuh"

#include <ATen/Dispatch.h>

namespace ste::cuda {
namespace {

template <typename W>
using RoundedEnds = element::EndsIn<W>;

template <typename W>
struct FakeQuantizeGradient {
  explicit FakeQuantizeGradient(const Ends& ends)
      : tests_rounded(ends.inside == Inside::rounded), rounded(ends), scaled(ends) {}

  C10_HOST_DEVICE By<W> operator()(W g, W x, W scale, W zero_point) const {
    const auto by = tests_rounded ? element::fake_quantize_backward(g, x, rounded.grid(scale, zero_point))
                                  : element::fake_quantize_backward(g, x, scaled.grid(scale, zero_point));
    return {by.x, by.scale, by.zero_point};
  }

  bool tests_rounded;
  element::EndsIn<W> rounded;
  element::EndsIn<W, Inside::scaled> scaled;
};

at::Tensor fake_quantize(const at::Tensor& x, const Arguments<2>& parameters, const Ends& ends) {
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize", [&] {
    using W = at::opmath_type<scalar_t>;
    const FakeQuantize<scalar_t, W, element::EndsIn<W>> function{element::EndsIn<W>(ends)};
    return forward<scalar_t, W>(x, parameters, function);
  });
}

std::array<at::Tensor, 3> fake_quantize_backward(
    const at::Tensor& g, const at::Tensor& x, const Arguments<2>& parameters, const std::array<bool, 3>& needed,
    double factor, const Ends& ends) {
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize_backward", [&] {
    using W = at::opmath_type<scalar_t>;
    const FakeQuantizeGradient<W> gradient(ends);
    return backward<scalar_t, W>(gradient, g, x, parameters, needed, factor);
  });
}

[[maybe_unused]] const bool entered =
    (FakeQuantizeKernel::cuda = &fake_quantize,
     FakeQuantizeAtRandomKernel::cuda = &fake_quantize_at_random<RoundedEnds>,
     FakeQuantizeBackwardKernel::cuda = &fake_quantize_backward, true);

}  // namespace
}  // namespace ste::cuda
