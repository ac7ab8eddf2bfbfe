// The ops of ste-core for programs in C++: what the Python functions of the same name compute, with their gradients.
//
// Each goes through torch's dispatcher, so it is differentiable (twice, and in forward mode), is traced, and runs under
// every transform as it does from Python. x may be of any floating-point dtype, and for the clamps and the signs of an
// integer one too; the results have x's shape and dtype. An argument that an op cannot take is a c10::Error that names
// the op.
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

/// The nearest integer; of two, the even one. The gradient passes unchanged.
STE_API at::Tensor round_ste(const at::Tensor& x);

/// The next integer above. The gradient passes unchanged.
STE_API at::Tensor ceil_ste(const at::Tensor& x);

/// The next integer below. The gradient passes unchanged.
STE_API at::Tensor floor_ste(const at::Tensor& x);

/// The next integer toward zero. The gradient passes unchanged.
STE_API at::Tensor trunc_ste(const at::Tensor& x);

/// The integer below, or the next one where `random`, of x's shape and from 0 to 1, is less than the distance from it:
/// so that the expected value is x. The gradient passes unchanged to x, and not to `random`.
STE_API at::Tensor stochastic_round_ste(const at::Tensor& x, const at::Tensor& random);

/// 1 where x >= 0, and `low` elsewhere. The gradient passes unchanged, or is multiplied by a surrogate, the derivative
/// of a function that is smooth where the sign has a jump: "clipped", "polynomial", "swish", "tanh", "sigmoid", "atan",
/// "fast_sigmoid", "triangle", "gaussian" or "reste". `alpha`, which is theirs, broadcasts to x's shape and has no
/// gradient; where none is given, it is that of the surrogate's source.
STE_API at::Tensor binary_sign_ste(
    const at::Tensor& x, const at::Scalar& low = 0.0, c10::string_view surrogate = "identity",
    const std::optional<at::Tensor>& alpha = std::nullopt);

/// 1 where x > threshold, -1 where x < -threshold, and 0 elsewhere. The threshold, which is 0 where none is given,
/// broadcasts to x's shape and has no gradient. The gradient to x is that of binary_sign_ste.
STE_API at::Tensor ternary_sign_ste(
    const at::Tensor& x, const std::optional<at::Tensor>& threshold = std::nullopt,
    c10::string_view surrogate = "identity", const std::optional<at::Tensor>& alpha = std::nullopt);

/// The value of `hard`, to the bit, with the gradient of `soft`: it passes unchanged to `soft`, and not to `hard`. Both
/// have one shape. The result has hard's dtype where that is floating, and soft's where hard is of integers or
/// booleans.
STE_API at::Tensor straight_through(const at::Tensor& hard, const at::Tensor& soft);

/// min(max(x, min_val), max_val). The gradient passes unchanged to x.
STE_API at::Tensor scalar_clamp_ste(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val);

/// min(max(x, min_val), max_val), with bounds that broadcast to x's shape. The gradient passes unchanged to x, and not
/// to the bounds.
STE_API at::Tensor tensor_clamp_ste(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

/// The same, with the gradient where the result comes from: to x within the bounds, closed, else to the bound that it
/// was clamped to, summed to that bound's shape.
STE_API at::Tensor tensor_clamp(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

/// (clamp(round(x / scale) + zero_point, quant_min, quant_max) - zero_point) * scale, with gradients to x, to the scale
/// and to the zero point (LSQ, arXiv 1902.08153; LSQ+, arXiv 2004.09576); those to the two are multiplied by
/// `grad_scale`. The parameters broadcast to x's shape; a zero point that is not given is 0. `inside` says what the
/// gradients test against the ends: "rounded", the integer; or "scaled", what it was before it was rounded, as LSQ
/// does. With `random`, of x's shape and from 0 to 1, rounding is that of stochastic_round_ste; so it is in the two
/// functions below, between the neighbors on their grids.
STE_API at::Tensor fake_quantize(
    const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point = std::nullopt,
    int64_t quant_min = -128, int64_t quant_max = 127, const at::Scalar& grad_scale = 1.0,
    c10::string_view inside = "rounded", const std::optional<at::Tensor>& random = std::nullopt);

/// x / scale, rounded to the numbers of a floating-point format of few bits, times the scale, with gradients to x and
/// to the scale; that to the scale is multiplied by `grad_scale`. The scale broadcasts to x's shape. `format` is
/// "e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e3m2fn", "e2m3fn" or "e2m1fn", with or without "float8_" (6, 4) in front,
/// or what Python's ste.FloatFormat has as its string. What lies beyond the largest number becomes that, or, unless it
/// saturates, infinity or NaN as the format has it.
STE_API at::Tensor fake_quantize_float(
    const at::Tensor& x, const at::Tensor& scale, c10::string_view format, const at::Scalar& grad_scale = 1.0,
    bool saturate = true, const std::optional<at::Tensor>& random = std::nullopt);

/// x / scale, rounded to a grid, times the scale, with a scale for each block of neighbors along a dimension that
/// follows from them by `rule`: "absmax", "minmax", "floor", "ceil", "even", "rceil" or "e4m3fn". The gradient passes
/// to x where the result is on the grid without being clamped; none passes through the scale. `grid` is a format as
/// above, or "int2" to "int8"; without a `block` there is one along the whole of the dimension. "e4m3fn" takes the
/// scale of the whole tensor, NVFP4's: the largest magnitude of all, divided by 448 times the largest number of the
/// grid.
STE_API at::Tensor fake_quantize_blocks(
    const at::Tensor& x, c10::string_view grid, std::optional<int64_t> block, c10::string_view rule, int64_t dim = -1,
    const std::optional<at::Tensor>& tensor_scale = std::nullopt,
    const std::optional<at::Tensor>& random = std::nullopt);

}  // namespace ste
