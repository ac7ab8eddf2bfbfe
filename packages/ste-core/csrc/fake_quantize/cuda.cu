#include "elements.h"
#include "kernels.h"

#include "../memory/cuda_backward.cuh"
#include "../memory/cuda_forward.cuh"

#include <ATen/Dispatch.h>

namespace ste::cuda {
namespace {

template <typename W>
struct EndsIn {
  explicit EndsIn(const Ends& ends)
      : quant_min(static_cast<W>(ends.quant_min)), quant_max(static_cast<W>(ends.quant_max)), inside(ends.inside) {}

  C10_HOST_DEVICE element::Grid<W> grid(W scale, W zero_point) const {
    return {scale, zero_point, quant_min, quant_max};
  }

  W quant_min;
  W quant_max;
  Inside inside;
};

template <typename T, typename W>
struct FakeQuantize {
  EndsIn<W> ends;

  C10_HOST_DEVICE T operator()(T x, W scale, W zero_point) const {
    return static_cast<T>(element::fake_quantize(static_cast<W>(x), ends.grid(scale, zero_point)));
  }
};

template <typename W>
struct FakeQuantizeGradient {
  EndsIn<W> ends;

  C10_HOST_DEVICE By<W> operator()(W g, W x, W scale, W zero_point) const {
    const auto grid = ends.grid(scale, zero_point);
    const auto by = ends.inside == Inside::rounded ? element::fake_quantize_backward<Inside::rounded>(g, x, grid)
                                                   : element::fake_quantize_backward<Inside::scaled>(g, x, grid);
    return {by.x, by.scale, by.zero_point};
  }
};

at::Tensor fake_quantize(const at::Tensor& x, const Arguments<2>& parameters, const Ends& ends) {
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize", [&] {
    using W = at::opmath_type<scalar_t>;
    const FakeQuantize<scalar_t, W> function{EndsIn<W>(ends)};
    return forward<scalar_t, W>(x, parameters, function);
  });
}

std::array<at::Tensor, 3> fake_quantize_backward(
    const at::Tensor& g, const at::Tensor& x, const Arguments<2>& parameters, const std::array<bool, 3>& needed,
    double factor, const Ends& ends) {
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize_backward", [&] {
    using W = at::opmath_type<scalar_t>;
    const FakeQuantizeGradient<W> gradient{EndsIn<W>(ends)};
    return backward<scalar_t, W>(gradient, g, x, parameters, needed, factor);
  });
}

[[maybe_unused]] const bool entered =
    (FakeQuantizeKernel::cuda = &fake_quantize, FakeQuantizeBackwardKernel::cuda = &fake_quantize_backward, true);

}  // namespace
}  // namespace ste::cuda
