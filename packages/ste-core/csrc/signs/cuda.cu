#include "elements.h"
#include "kernels.h"

#include <ATen/Dispatch.h>
#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <ATen/native/cuda/Loops.cuh>

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
  auto iterator = at::TensorIteratorConfig().add_owned_output(at::Tensor()).add_borrowed_const_input(x).build();
  AT_DISPATCH_ALL_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "binary_sign", [&] {
    const auto below = in_dtype<scalar_t>(low);
    at::native::gpu_kernel_nocast(
        iterator, [below] GPU_LAMBDA(scalar_t value) -> scalar_t { return element::binary_sign(value, below); });
  });
  return iterator.output();
}

[[maybe_unused]] const bool entered = (BinarySignKernel::cuda = &binary_sign, true);

}  // namespace
}  // namespace ste::cuda
