#include "elements.h"
#include "kernels.h"
#include "surrogates.h"

#include "../memory/cuda_iterator.cuh"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>

#include <type_traits>

namespace ste::cuda {
namespace {

template <typename T>
T in_dtype(const Number& number) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(number.integer);
  } else {
    return static_cast<T>(number.real);
  }
}

at::Tensor binary_sign(const at::Tensor& x, const Arguments<0>& /*arguments*/, const Number& low) {
  const c10::cuda::CUDAGuard guard(x.device());
  auto iterator = iterator_of(x);
  AT_DISPATCH_ALL_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "binary_sign", [&] {
    const auto below = in_dtype<scalar_t>(low);
    at::native::gpu_kernel_nocast(
        iterator, [below] GPU_LAMBDA(scalar_t value) -> scalar_t { return element::binary_sign(value, below); });
  });
  return iterator.output();
}

at::Tensor ternary_threshold(const at::Tensor& x, const Arguments<1>& arguments) {
  const c10::cuda::CUDAGuard guard(x.device());
  auto iterator = iterator_of(x, *arguments[0]);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "ternary_threshold", [&] {
    using W = at::opmath_type<scalar_t>;
    at::native::gpu_kernel_nocast(iterator, [] GPU_LAMBDA(scalar_t value, W threshold) -> scalar_t {
      return static_cast<scalar_t>(element::ternary_sign(static_cast<W>(value), threshold));
    });
  });
  return iterator.output();
}

template <typename T>
struct SurrogateGradient {
  using W = at::opmath_type<T>;
  using Wide = std::conditional_t<std::is_same_v<T, float>, double, W>;

  Surrogate surrogate;

  C10_HOST_DEVICE T operator()(T g, T x, W alpha) const {
    return element::with_surrogate(surrogate, Computed{g, x, alpha});
  }

  struct Computed {
    T g;
    T x;
    W alpha;

    template <typename Kind>
    C10_HOST_DEVICE T operator()(Kind) const {
      using C = std::conditional_t<Kind::is_transcendental, Wide, W>;
      const typename Kind::template On<C> gradient(static_cast<C>(alpha));
      return static_cast<T>(gradient(static_cast<C>(g), static_cast<C>(x)));
    }
  };
};

at::Tensor surrogate(const at::Tensor& g, const Arguments<2>& arguments, const Surrogate& kind) {
  const c10::cuda::CUDAGuard guard(g.device());
  auto iterator = iterator_of(g, *arguments[0], *arguments[1]);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, g.scalar_type(), "surrogate", [&] {
    at::native::gpu_kernel_nocast(iterator, SurrogateGradient<scalar_t>{kind});
  });
  return iterator.output();
}

[[maybe_unused]] const bool entered =
    (BinarySignKernel::cuda = &binary_sign, TernaryThresholdKernel::cuda = &ternary_threshold,
     SurrogateKernel::cuda = &surrogate, true);

}  // namespace
}  // namespace ste::cuda
