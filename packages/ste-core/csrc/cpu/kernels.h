// The kernels for CPUs.
#pragma once

#include "../kernels.h"
#include "loops.h"

namespace ste::cpu {

extern const Kernels kernels;

bool is_dense(const at::Tensor& tensor);

// Those that ATen has for other devices. The numbers are in x's dtype; the bounds too, and they broadcast to its shape.
at::Tensor ternary_sign(const at::Tensor& x);
at::Tensor to_integer(const at::Tensor& x, Integer which);  // of float and double
at::Tensor scalar_clamp(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val);
at::Tensor clamp(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

}  // namespace ste::cpu
