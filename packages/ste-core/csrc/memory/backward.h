// Runs a kernel that makes the gradients to x and to two arguments.
#pragma once

#include "dispatch.h"

#include <c10/util/FunctionRef.h>

#include <array>

namespace ste {
namespace cpu {

using BackwardLoop = c10::function_ref<void(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs)>;

// On torch's threads.
std::array<at::Tensor, 3> backward(
    BackwardLoop loop, const at::Tensor& g, const at::Tensor& x, const Arguments<2>& arguments,
    const std::array<bool, 3>& needed, double factor);

}  // namespace cpu

// Calls the kernel, which must exist (`has_kernel`).
template <typename Kernel, typename... Values>
std::array<at::Tensor, 3> run_backward(
    const at::Tensor& g, const at::Tensor& x, const Arguments<2>& arguments, const std::array<bool, 3>& needed,
    double factor, const Values&... values) {
  if constexpr (requires { Kernel::cuda; }) {
    if (x.is_cuda()) {
      return Kernel::cuda(g, x, arguments, needed, factor, values...);
    }
  }
  const auto loop = loop_for<Kernel>(x.scalar_type());
  const auto with_values = [&](char* const* data, const int64_t* strides, int64_t size0, int64_t size1,
                               const Output* outputs) { loop(data, strides, size0, size1, outputs, values...); };
  return cpu::backward(with_values, g, x, arguments, needed, factor);
}

}  // namespace ste
