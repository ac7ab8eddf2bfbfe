// The ops of ste-core for programs in C++. They compute what the Python functions of the same name compute, with the
// same gradients.
//
// Each call goes through torch's dispatcher, so it is differentiable (twice, and in forward mode), can be traced, and
// works under every transform, as from Python. x may have any floating-point dtype, for the clamps and the signs also
// an integer one. The results have x's shape and dtype. For an argument that it does not support, an op throws a
// c10::Error that names the op.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>
#include <c10/util/string_view.h>

#include <cstdint>
#include <optional>

#if defined(_WIN32) && defined(STE_BUILDS_LIBRARY)
#define STE_API __declspec(dllexport)
#elif defined(_WIN32)
#define STE_API __declspec(dllimport)
#else
#define STE_API __attribute__((visibility("default")))
#endif

namespace ste {

/// Rounds to the nearest integer; ties go to the even one. The gradient passes unchanged.
STE_API at::Tensor round_ste(const at::Tensor& x);

/// Rounds up to an integer. The gradient passes unchanged.
STE_API at::Tensor ceil_ste(const at::Tensor& x);

/// Rounds down to an integer. The gradient passes unchanged.
STE_API at::Tensor floor_ste(const at::Tensor& x);

/// Rounds toward zero to an integer. The gradient passes unchanged.
STE_API at::Tensor trunc_ste(const at::Tensor& x);

/// Rounds down, or up where `random` is less than the distance of x from the integer below, so that the expected value
/// is x. `random` has x's shape, and numbers in [0, 1). The gradient passes unchanged to x, and not to `random`.
STE_API at::Tensor stochastic_round_ste(const at::Tensor& x, const at::Tensor& random);

/// 1 where x >= 0, and `low` elsewhere. The gradient passes unchanged, or is multiplied by a surrogate, the derivative
/// of a function that is smooth where the sign jumps: "clipped", "polynomial", "swish", "tanh", "sigmoid", "atan",
/// "fast_sigmoid", "triangle", "gaussian" or "reste". `alpha`, the surrogate's parameter, broadcasts to x's shape and
/// gets no gradient; without one, it is that of the surrogate's source.
STE_API at::Tensor binary_sign_ste(
    const at::Tensor& x, const at::Scalar& low = 0.0, c10::string_view surrogate = "identity",
    const std::optional<at::Tensor>& alpha = std::nullopt);

/// 1 where x > threshold, -1 where x < -threshold, and 0 elsewhere. The threshold is 0 by default, broadcasts to x's
/// shape, and gets no gradient. The gradient to x is that of binary_sign_ste.
STE_API at::Tensor ternary_sign_ste(
    const at::Tensor& x, const std::optional<at::Tensor>& threshold = std::nullopt,
    c10::string_view surrogate = "identity", const std::optional<at::Tensor>& alpha = std::nullopt);

/// The value of `hard`, to the bit, with the gradient of `soft`: the gradient passes unchanged to `soft`, and not to
/// `hard`. Both must have the same shape. The result has hard's dtype if that is floating-point, and soft's if hard has
/// integers or booleans.
STE_API at::Tensor straight_through(const at::Tensor& hard, const at::Tensor& soft);

/// min(max(x, min_val), max_val). The gradient passes unchanged to x.
STE_API at::Tensor scalar_clamp_ste(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val);

/// min(max(x, min_val), max_val), with bounds that broadcast to x's shape. The gradient passes unchanged to x, and not
/// to the bounds.
STE_API at::Tensor tensor_clamp_ste(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

/// The same, but the gradient goes where the result comes from: to x from bound to bound inclusive, else to the bound
/// that x was clamped to, summed to that bound's shape.
STE_API at::Tensor tensor_clamp(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

/// (clamp(round(x / scale) + zero_point, quant_min, quant_max) - zero_point) * scale, with gradients to x, to the scale
/// and to the zero point (LSQ, arXiv 1902.08153; LSQ+, arXiv 2004.09576); the gradients to the two parameters are
/// multiplied by `grad_scale`. The parameters broadcast to x's shape; without a zero point, it is 0. `inside` says what
/// the gradients test against the ends: "rounded", the integer; or "scaled", the value before rounding, as LSQ does.
/// With `random`, numbers in [0, 1) of x's shape, rounding is that of stochastic_round_ste. The same holds for the two
/// functions below, between the neighbors on their grids.
STE_API at::Tensor fake_quantize(
    const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point = std::nullopt,
    int64_t quant_min = -128, int64_t quant_max = 127, const at::Scalar& grad_scale = 1.0,
    c10::string_view inside = "rounded", const std::optional<at::Tensor>& random = std::nullopt);

/// x / scale, rounded to the numbers of a floating-point format of few bits, times the scale, with gradients to x and
/// to the scale; the latter is multiplied by `grad_scale`. The scale broadcasts to x's shape. `format` is "e4m3fn",
/// "e5m2", "e4m3fnuz", "e5m2fnuz", "e3m2fn", "e2m3fn" or "e2m1fn", with or without the prefix "float8_" (6, 4), or the
/// string of a ste.FloatFormat in Python. Values beyond the largest number become the largest or, without `saturate`,
/// infinity if the format has one, else NaN.
STE_API at::Tensor fake_quantize_float(
    const at::Tensor& x, const at::Tensor& scale, c10::string_view format, const at::Scalar& grad_scale = 1.0,
    bool saturate = true, const std::optional<at::Tensor>& random = std::nullopt);

/// x / scale, rounded to a grid, times the scale, with a scale for each block of neighbors along a dimension. `rule`
/// says how the scale is computed from them: "absmax", "minmax", "floor", "ceil", "even", "rceil" or "e4m3fn". The
/// gradient passes to x where the result was not clamped to the grid's range; none passes through the scale. `grid` is
/// a format as above, or "int2" to "int8". Without a `block`, one block spans the whole dimension. The rule "e4m3fn"
/// requires the scale of the whole tensor, as in NVFP4: the largest magnitude of all, divided by 448 times the largest
/// number of the grid.
STE_API at::Tensor fake_quantize_blocks(
    const at::Tensor& x, c10::string_view grid, std::optional<int64_t> block, c10::string_view rule, int64_t dim = -1,
    const std::optional<at::Tensor>& tensor_scale = std::nullopt,
    const std::optional<at::Tensor>& random = std::nullopt);

}  // namespace ste
