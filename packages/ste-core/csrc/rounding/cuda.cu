#include "elements.h"
#include "kernels.h"

#include "../memory/cuda_iterator.cuh"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>

namespace ste::cuda {
namespace {

at::Tensor stochastic_round(const at::Tensor& x, const Arguments<1>& arguments) {
  const c10::cuda::CUDAGuard guard(x.device());
  auto iterator = iterator_of(x, *arguments[0]);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "stochastic_round", [&] {
    using W = at::opmath_type<scalar_t>;
    at::native::gpu_kernel_nocast(iterator, [] GPU_LAMBDA(scalar_t value, W random) -> scalar_t {
      return static_cast<scalar_t>(element::round_at_random(static_cast<W>(value), random));
    });
  });
  return iterator.output();
}

[[maybe_unused]] const bool entered = (StochasticRoundKernel::cuda = &stochastic_round, true);

}  // namespace
}  // namespace ste::cuda
