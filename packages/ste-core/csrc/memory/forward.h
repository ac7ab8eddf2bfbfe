// Runs a kernel that makes a tensor of x's shape and dtype.
#pragma once

#include "dispatch.h"

#include <c10/core/Scalar.h>
#include <c10/util/FunctionRef.h>

namespace ste {

inline Number number(const at::Scalar& scalar) {
  return scalar.isFloatingPoint() ? Number{scalar.toDouble(), 0} : Number{0, scalar.toLong()};
}

namespace cpu {

using ForwardLoop = c10::function_ref<void(char* const* data, const int64_t* strides, int64_t size0, int64_t size1)>;

// On torch's threads.
template <size_t n>
at::Tensor forward(ForwardLoop loop, const at::Tensor& x, const Arguments<n>& arguments);

}  // namespace cpu

// Calls the kernel, which must exist (`has_kernel`).
template <typename Kernel, typename... Values>
at::Tensor run_forward(const at::Tensor& x, const typename Kernel::Arguments& arguments, const Values&... values) {
  if constexpr (requires { Kernel::cuda; }) {
    if (x.is_cuda()) {
      return Kernel::cuda(x, arguments, values...);
    }
  }
  const auto loop = loop_for<Kernel>(x.scalar_type());
  const auto with_values = [&](char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
    loop(data, strides, size0, size1, values...);
  };
  return cpu::forward(with_values, x, arguments);
}

}  // namespace ste
