// What an op accepts. ste/_arguments.py holds the same rules in Python, with the same words.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>
#include <c10/core/SymInt.h>
#include <c10/util/MaybeOwned.h>

#include <optional>

namespace ste {

// An argument, or what was made of it. To copy a tensor that Python owns takes the GIL, a tenth of the time of a call.
using MaybeOwnedTensor = c10::MaybeOwned<at::Tensor>;

// Which end of the range a bound is: a fractional bound of an integer tensor is rounded inwards.
enum class Side { min, max };

// float64, float32, float16, bfloat16, and the integers that torch computes with everywhere.
void check_dtype(const char* op, const char* name, const at::Tensor& tensor);

// Bounds live on x's device and broadcast to x's shape, never beyond it.
void check_bound(const char* op, const char* name, const at::Tensor& bound, const at::Tensor& x);

// x is floating; the parameters are of its dtype or float32 (a zero point may be an integer), on its device, and
// broadcast to its shape.
void check_quantization(
    const char* op, const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
    const c10::SymInt& quant_min, const c10::SymInt& quant_max);

// The value that `bound` stands for in x's dtype: rounded for a floating x, exact for an integer x, where a
// value past the end of the dtype's range is that end.
c10::Scalar bound_in_dtype(const char* op, const char* name, const c10::Scalar& bound, const at::Tensor& x);
MaybeOwnedTensor bound_in_dtype(Side side, const at::Tensor& bound, at::ScalarType dtype);

// A value that has to be represented exactly when x is an integer tensor.
void check_value(const char* op, const char* name, double value, const at::Tensor& x);

}  // namespace ste
