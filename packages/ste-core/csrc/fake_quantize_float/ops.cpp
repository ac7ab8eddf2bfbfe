// fake_quantize_float: to the numbers of a floating-point format and back, differentiable in x and in the scale.
#include "elements.h"
#include "format.h"
#include "kernels.h"

#include "../fake_quantize/gradient.h"
#include "../memory/forward.h"
#include "../register/expression.h"
#include "../register/op.h"

#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <limits>
#include <utility>

namespace ste {

constinit FakeQuantizeFloatKernel::Cuda FakeQuantizeFloatKernel::cuda = nullptr;
constinit FakeQuantizeFloatBackwardKernel::Cuda FakeQuantizeFloatBackwardKernel::cuda = nullptr;

// Of elements as tensors, which have no bits: by comparisons, each with half of the exponents that are left.
inline Expression power_within(const Expression& x, const Expression& least, const Expression& limit) {
  const int exponents = std::ilogb(limit.number().toDouble()) - std::ilogb(least.number().toDouble());
  auto power = at::full_like(x.tensor(), least.number());
  for (int step = exponents > 0 ? 1 << std::ilogb(exponents) : 0; step > 0; step /= 2) {
    const auto larger = power * std::ldexp(1.0, step);
    power = at::where(x.tensor().ge(larger), larger, power);
  }
  return Expression(power);
}

// Not at::copysign, which is no operator of ONNX.
inline Expression with_sign_of(const Expression& size, const Expression& x) {
  const auto& to = size.tensor();
  const auto& from = x.tensor();
  return Expression(at::where(from.eq(0), from, at::where(from.lt(0), -to, to)));
}

namespace {

struct Slopes;

// What is no tensor among the arguments.
struct Settings {
  using BackwardKernel = FakeQuantizeFloatBackwardKernel;
  using Slopes = ste::Slopes;
  static constexpr auto kNode = "FakeQuantizeFloatBackward";

  Settings(c10::string_view format, at::Scalar factor, bool saturate)
      : ends(format_of("fake_quantize_float", format).ends(saturate)), grad_scale(std::move(factor)) {}

  // For the kernels, which take two arguments.
  const FloatEnds& ends_in(at::ScalarType /*dtype*/) const { return ends; }
  static MaybeOwnedTensor second_argument(
      const OptionalTensor& /*zero_point*/, const at::Tensor& step, at::ScalarType /*dtype*/) {
    return MaybeOwnedTensor::borrowed(step);
  }

  FloatEnds ends;
  at::Scalar grad_scale;
};

// x on the grid, by operations of torch, in the dtype that it is computed in.
struct Grid {
  Grid(const at::Tensor& x, const at::Tensor& step, const FloatEnds& ends)
      : dtype(computed_in(x)), scale(in_dtype(step, dtype)), scaled(in_dtype(x, dtype) / scale) {
    const int digits = dtype == at::kDouble ? std::numeric_limits<double>::digits : std::numeric_limits<float>::digits;
    const element::FloatGrid<Expression> grid{
        Expression(scale),    Expression(ends.least), Expression(std::ldexp(1.0, digits - 1 - ends.mantissa_bits)),
        Expression(ends.max), Expression(ends.limit), Expression(ends.overflow)};
    const Expression v(scaled);
    const auto size = element::round_to_format(v, grid.limit, grid);
    q = element::within_format(size, v, grid).tensor();
    is_inside = size.tensor().le(ends.max);
  }

  at::ScalarType dtype;
  at::Tensor scale;
  at::Tensor scaled;
  at::Tensor q;
  at::Tensor is_inside;
};

// The derivatives around a grid of values, which are no functions of the arguments.
struct Slopes : Grid {
  Slopes(const at::Tensor& x, const at::Tensor& step, const OptionalTensor& /*zero_point*/, const Settings& settings)
      : Grid(x.detach(), step.detach(), settings.ends) {}

  at::Tensor by_scale(const OptionalTensor& /*zero_point*/, const at::Scalar& /*grad_scale*/) const {
    return q - at::where(is_inside, scaled, 0);
  }

  // There is none.
  static at::Tensor by_zero_point(const at::Tensor& /*scale*/, const at::Scalar& /*grad_scale*/) { return {}; }
};

struct FakeQuantizeFloatGradient {
  static void check(
      const char* op, const at::Tensor& x, const at::Tensor& scale, c10::string_view format,
      const at::Scalar& /*grad_scale*/, bool /*saturate*/) {
    check_is_floating(op, "x", x);
    check_parameter(op, "scale", scale, x, /*may_be_integer=*/false);
    format_of(op, format);
  }

  template <typename Below>
  static at::Tensor record(
      const Below& below, const at::Tensor& x, const at::Tensor& scale, c10::string_view format,
      const at::Scalar& grad_scale, bool saturate) {
    at::Tensor y = below();
    record_fake_quantize(y, x, scale, std::nullopt, Settings(format, grad_scale, saturate));
    return y;
  }
};

at::Tensor fake_quantize_float_composite(
    const at::Tensor& x, const at::Tensor& scale, c10::string_view format, const at::Scalar& grad_scale,
    bool saturate) {
  const Grid grid(x, scale, Settings(format, grad_scale, saturate).ends);
  return in_dtype(grid.q * grid.scale, x.scalar_type());
}

at::Tensor fake_quantize_float_eager(
    const at::Tensor& x, const at::Tensor& scale, c10::string_view format, const at::Scalar& grad_scale,
    bool saturate) {
  if (!has_kernel<FakeQuantizeFloatKernel>(x, scale)) {
    return fake_quantize_float_composite(x, scale, format, grad_scale, saturate);
  }
  const auto step = converted(scale, computed_in(x));
  return run_forward<FakeQuantizeFloatKernel>(x, {&*step, &*step}, Settings(format, grad_scale, saturate).ends);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<FakeQuantizeFloatGradient, fake_quantize_float_composite, fake_quantize_float_eager>::define(
      library,
      "fake_quantize_float(Tensor x, Tensor scale, str format, Scalar grad_scale=1.0, bool saturate=True) -> Tensor");
}

}  // namespace ste
