// What an op accepts. ste/_arguments.py has the same rules in Python, in the same words.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>
#include <c10/core/ScalarType.h>
#include <c10/core/SymInt.h>
#include <c10/util/MaybeOwned.h>

#include <algorithm>
#include <cstdint>
#include <optional>

namespace ste {

// An argument, or what was made of it. Copying a tensor that Python owns takes the GIL, which is a tenth of the time of
// a call.
using MaybeOwnedTensor = c10::MaybeOwned<at::Tensor>;
using OptionalTensor = std::optional<at::Tensor>;

// Which end of the range a bound is: a fractional bound of an integer tensor is rounded inwards.
enum class Side { min, max };

// float64, float32, float16 and bfloat16.
inline bool is_floating(at::ScalarType dtype) {
  return dtype == at::kDouble || dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16;
}

// The dtype in which the gradients and the grids of a floating-point x are computed.
inline at::ScalarType computed_in(const at::Tensor& x) {
  return c10::promoteTypes(x.scalar_type(), at::kFloat);
}

// Whether the parameter broadcasts to x's shape. Neither shape may have symbols: ATen's test supports them, and takes
// as long as all the rest of the checks.
inline bool is_expandable(const at::Tensor& parameter, const at::Tensor& x) {
  const auto sizes = parameter.sizes();
  const auto fits = [](int64_t size, int64_t wanted) { return size == 1 || size == wanted; };
  return parameter.dim() <= x.dim() && std::equal(sizes.rbegin(), sizes.rend(), x.sizes().rbegin(), fits);
}

// The dtype is floating-point, or one of the integers that torch computes with everywhere.
void check_dtype(const char* op, const char* name, const at::Tensor& tensor);

// Bounds are on x's device (one without dimensions may be on the CPU, as in torch) and broadcast to x's shape, never
// beyond it. One element fits an x of any shape.
void check_bound(const char* op, const char* name, const at::Tensor& bound, const at::Tensor& x);

void check_is_floating(const char* op, const char* name, const at::Tensor& tensor);

// A parameter has x's dtype or float32, or an integer dtype if it may, and fits x as bounds do.
void check_parameter(
    const char* op, const char* name, const at::Tensor& parameter, const at::Tensor& x, bool may_be_integer);

// A tensor of x's dtype or float32, and of x's shape.
void check_beside(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& x);

// The same for the numbers to round by, if there are any.
inline void check_random(const char* op, const std::optional<at::Tensor>& random, const at::Tensor& x) {
  if (random) {
    check_beside(op, "random", *random, x);
  }
}

// hard is floating-point, integer or boolean; soft is floating-point, of hard's shape and on its device.
void check_hard_and_soft(const char* op, const at::Tensor& hard, const at::Tensor& soft);

// x is floating-point; the parameters have its dtype or float32 (a zero point may be an integer), and fit x as bounds
// do.
void check_quantization(
    const char* op, const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
    const c10::SymInt& quant_min, const c10::SymInt& quant_max);

// Whether a parameter is on x's device and has no more dimensions than x.
inline bool lies_beside(const at::Tensor& parameter, const at::Tensor& x) {
  return parameter.dim() <= x.dim() && parameter.device() == x.device();
}

// A parameter that has been checked, brought there. Differentiable.
at::Tensor beside(const at::Tensor& parameter, const at::Tensor& x);

// Without its history.
inline std::optional<at::Tensor> detached(const std::optional<at::Tensor>& tensor) {
  return tensor ? std::optional(tensor->detach()) : std::nullopt;
}

// The end of a grid of integers in the dtype of the computation: rounded inwards, so that nothing lies beyond it.
double end_in_dtype(Side side, int64_t end, at::ScalarType dtype);

// The value of `bound` in x's dtype: rounded for a floating-point x; exact for an integer x, where a value beyond the
// dtype's range becomes the end of that range.
c10::Scalar bound_in_dtype(const char* op, const char* name, const c10::Scalar& bound, const at::Tensor& x);
MaybeOwnedTensor bound_in_dtype(Side side, const at::Tensor& bound, at::ScalarType dtype);

// The value in x's dtype: rounded for a floating-point x; for an integer x, the dtype must represent it exactly.
c10::Scalar value_in_dtype(const char* op, const char* name, const c10::Scalar& value, const at::Tensor& x);

}  // namespace ste
