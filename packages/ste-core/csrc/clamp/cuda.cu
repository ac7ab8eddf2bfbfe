#include "elements.h"
#include "kernels.h"

#include "../memory/cuda_backward.cuh"

#include <ATen/Dispatch.h>

namespace ste::cuda {
namespace {

template <typename W>
struct ClampGradient {
  C10_HOST_DEVICE By<W> operator()(W g, W x, W min_val, W max_val) const {
    const auto by = element::clamp_backward(g, x, min_val, max_val);
    return {by.x, by.min_val, by.max_val};
  }
};

std::array<at::Tensor, 3> clamp_backward(
    const at::Tensor& g, const at::Tensor& x, const Arguments<2>& bounds, const std::array<bool, 3>& needed,
    double factor) {
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "clamp_backward", [&] {
    const ClampGradient<at::opmath_type<scalar_t>> gradient;
    return backward<scalar_t, scalar_t>(gradient, g, x, bounds, needed, factor);
  });
}

[[maybe_unused]] const bool entered = (ClampBackwardKernel::cuda = &clamp_backward, true);

}  // namespace
}  // namespace ste::cuda
