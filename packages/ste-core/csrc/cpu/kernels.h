// The kernels for CPUs, where ATen takes more than one pass over the memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>

#include <array>
#include <optional>

namespace ste::cpu {

// Whether a tensor is nothing but dense memory of the CPU: the kernels take no others.
bool is_dense(const at::Tensor& tensor);

// The numbers are in x's dtype.
at::Tensor binary_sign(const at::Tensor& x, const at::Scalar& low);
at::Tensor ternary_sign(const at::Tensor& x);
at::Tensor scalar_clamp(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val);

// The bounds are in x's dtype, and broadcast to its shape.
at::Tensor clamp(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

// The gradients to x, min_val and max_val, all of one dtype, those to the bounds summed to the bounds' shapes: in one
// pass, and in double whatever the dtype. Undefined where not `needed`. The bits depend on no number of threads.
std::array<at::Tensor, 3> clamp_backward(
    const at::Tensor& g, const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val,
    const std::array<bool, 3>& needed);

// The parameters are in float, or in double where x is, and broadcast to x's shape. Without a zero point it is 0.
at::Tensor fake_quantize(
    const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point, int64_t quant_min,
    int64_t quant_max);

// The gradients to x, in its dtype, and to the parameters, summed to their shapes as in `clamp_backward` and then
// multiplied, in float or double.
std::array<at::Tensor, 3> fake_quantize_backward(
    const at::Tensor& g, const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
    int64_t quant_min, int64_t quant_max, double grad_scale, const std::array<bool, 3>& needed);

}  // namespace ste::cpu
