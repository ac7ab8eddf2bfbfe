// What an op accepts. ste/_arguments.py holds the same rules in Python, with the same words.
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

// An argument, or what was made of it. To copy a tensor that Python owns takes the GIL, a tenth of the time of a call.
using MaybeOwnedTensor = c10::MaybeOwned<at::Tensor>;
using OptionalTensor = std::optional<at::Tensor>;

// Which end of the range a bound is: a fractional bound of an integer tensor is rounded inwards.
enum class Side { min, max };

// float64, float32, float16 and bfloat16.
inline bool is_floating(at::ScalarType dtype) {
  return dtype == at::kDouble || dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16;
}

// What the gradients and the grids of a floating x are computed in.
inline at::ScalarType computed_in(const at::Tensor& x) {
  return c10::promoteTypes(x.scalar_type(), at::kFloat);
}

// Whether it broadcasts to x's shape. Neither has a symbol in its own: ATen's test is of symbols too, and takes as long
// as all the rest of the checks.
inline bool is_expandable(const at::Tensor& parameter, const at::Tensor& x) {
  const auto sizes = parameter.sizes();
  const auto fits = [](int64_t size, int64_t wanted) { return size == 1 || size == wanted; };
  return parameter.dim() <= x.dim() && std::equal(sizes.rbegin(), sizes.rend(), x.sizes().rbegin(), fits);
}

// The floating dtypes, and the integers that torch computes with everywhere.
void check_dtype(const char* op, const char* name, const at::Tensor& tensor);

// Bounds live on x's device (one without dimensions may be on the CPU, as torch has it) and broadcast to x's shape,
// never beyond it. One element serves an x of any shape.
void check_bound(const char* op, const char* name, const at::Tensor& bound, const at::Tensor& x);

void check_is_floating(const char* op, const char* name, const at::Tensor& tensor);

// A parameter is of x's dtype or float32, or may be an integer, and lies as bounds do.
void check_parameter(
    const char* op, const char* name, const at::Tensor& parameter, const at::Tensor& x, bool may_be_integer);

// A tensor of x's dtype or float32, and of x's shape.
void check_beside(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& x);

// The same, of numbers to round by, if there are any.
inline void check_random(const char* op, const std::optional<at::Tensor>& random, const at::Tensor& x) {
  if (random) {
    check_beside(op, "random", *random, x);
  }
}

// hard is floating, integer or boolean, and soft floating, of hard's shape and beside it.
void check_hard_and_soft(const char* op, const at::Tensor& hard, const at::Tensor& soft);

// x is floating; the parameters are of its dtype or float32 (a zero point may be an integer), and lie as bounds do.
void check_quantization(
    const char* op, const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
    const c10::SymInt& quant_min, const c10::SymInt& quant_max);

// Whether a parameter lies on x's device and has no more dimensions than x.
inline bool lies_beside(const at::Tensor& parameter, const at::Tensor& x) {
  return parameter.dim() <= x.dim() && parameter.device() == x.device();
}

// A parameter that has been checked, such that it does. Differentiable.
at::Tensor beside(const at::Tensor& parameter, const at::Tensor& x);

// Without what it follows from.
inline std::optional<at::Tensor> detached(const std::optional<at::Tensor>& tensor) {
  return tensor ? std::optional(tensor->detach()) : std::nullopt;
}

// The end of a grid of integers in the dtype that is computed in: rounded inwards, so that nothing lies beyond it.
double end_in_dtype(Side side, int64_t end, at::ScalarType dtype);

// The value that `bound` stands for in x's dtype: rounded for a floating x, exact for an integer x, where a
// value past the end of the dtype's range is that end.
c10::Scalar bound_in_dtype(const char* op, const char* name, const c10::Scalar& bound, const at::Tensor& x);
MaybeOwnedTensor bound_in_dtype(Side side, const at::Tensor& bound, at::ScalarType dtype);

// The value in x's dtype: rounded for a floating x; for an integer x it has to be a value of the dtype.
c10::Scalar value_in_dtype(const char* op, const char* name, const c10::Scalar& value, const at::Tensor& x);

}  // namespace ste
