// fake_quantize_float: x on the grid of a floating-point format and back, differentiable in x and in the scale.
#include "expression.h"
#include "format.h"
#include "kernels.h"

#include "../fake_quantize/gradient.h"
#include "../memory/forward.h"
#include "../register/op.h"

#include <ATen/ops/where.h>

#include <tuple>
#include <utility>

namespace ste {

constinit FakeQuantizeFloatKernel::Cuda FakeQuantizeFloatKernel::cuda = nullptr;
constinit FakeQuantizeFloatAtRandomKernel::Cuda FakeQuantizeFloatAtRandomKernel::cuda = nullptr;
constinit FakeQuantizeFloatBackwardKernel::Cuda FakeQuantizeFloatBackwardKernel::cuda = nullptr;

namespace {

struct Slopes;

// The arguments that are not tensors.
struct Settings {
  using BackwardKernel = FakeQuantizeFloatBackwardKernel;
  using Slopes = ste::Slopes;
  static constexpr auto kNode = "FakeQuantizeFloatBackward";

  Settings() = default;
  Settings(c10::string_view format, at::Scalar factor, bool saturate)
      : ends(format_of("fake_quantize_float", format).ends(saturate)), grad_scale(std::move(factor)) {}

  // For the kernels, which take two arguments.
  const FloatEnds& ends_in(at::ScalarType /*dtype*/) const { return ends; }
  static MaybeOwnedTensor second_argument(
      const OptionalTensor& /*zero_point*/, const at::Tensor& step, at::ScalarType /*dtype*/) {
    return MaybeOwnedTensor::borrowed(step);
  }

  auto fields() { return std::tuple_cat(ends.fields(), std::tie(grad_scale)); }
  auto fields() const { return std::tuple_cat(ends.fields(), std::tie(grad_scale)); }

  FloatEnds ends{};
  at::Scalar grad_scale;
};

// x on the grid as torch operations, in the dtype of the computation.
struct Grid {
  Grid(const at::Tensor& x, const at::Tensor& step, const OptionalTensor& random, const FloatEnds& ends)
      : dtype(computed_in(x)), scale(in_dtype(step, dtype)), scaled(in_dtype(x, dtype) / scale) {
    const auto grid = grid_of(Expression(scale), ends, dtype);
    const Expression v(scaled);
    const auto size = random ? element::round_to_format_at_random(v, Expression(in_dtype(*random, dtype)), grid)
                             : element::round_to_format(v, grid.limit, grid);
    q = element::within_format(size, v, grid).tensor();
    is_inside = size.tensor().le(ends.max);
  }

  at::ScalarType dtype;
  at::Tensor scale;
  at::Tensor scaled;
  at::Tensor q;
  at::Tensor is_inside;
};

// The derivatives, from a grid of values that are not functions of the arguments.
struct Slopes : Grid {
  Slopes(
      const at::Tensor& x, const at::Tensor& step, const OptionalTensor& /*zero_point*/, const OptionalTensor& random,
      const Settings& settings)
      : Grid(x.detach(), step.detach(), detached(random), settings.ends) {}

  at::Tensor by_scale(const OptionalTensor& /*zero_point*/, const at::Scalar& /*grad_scale*/) const {
    return q - at::where(is_inside, scaled, 0);
  }

  // There is no zero point.
  static at::Tensor by_zero_point(const at::Tensor& /*scale*/, const at::Scalar& /*grad_scale*/) { return {}; }
};

struct FakeQuantizeFloatGradient {
  static void check(
      const char* op, const at::Tensor& x, const at::Tensor& scale, c10::string_view format,
      const at::Scalar& /*grad_scale*/, bool /*saturate*/, const OptionalTensor& random) {
    check_is_floating(op, "x", x);
    check_parameter(op, "scale", scale, x, /*may_be_integer=*/false);
    format_of(op, format);
    check_random(op, random, x);
  }

  template <typename Below>
  static at::Tensor record(
      const Below& below, const at::Tensor& x, const at::Tensor& scale, c10::string_view format,
      const at::Scalar& grad_scale, bool saturate, const OptionalTensor& random) {
    at::Tensor y = below();
    record_fake_quantize(y, x, scale, std::nullopt, random, Settings(format, grad_scale, saturate));
    return y;
  }

  template <typename Call>
  static at::Tensor batched(
      const Batch& batch, const Call& call, const at::Tensor& x, const at::Tensor& scale, c10::string_view format,
      const at::Scalar& grad_scale, bool saturate, const OptionalTensor& random) {
    return call(batch.input(x), batch.argument(scale), format, grad_scale, saturate, batch.input(random));
  }
};

at::Tensor fake_quantize_float_composite(
    const at::Tensor& x, const at::Tensor& scale, c10::string_view format, const at::Scalar& grad_scale, bool saturate,
    const OptionalTensor& random) {
  const Grid grid(x, scale, random, Settings(format, grad_scale, saturate).ends);
  return in_dtype(grid.q * grid.scale, x.scalar_type());
}

at::Tensor fake_quantize_float_eager(
    const at::Tensor& x, const at::Tensor& scale, c10::string_view format, const at::Scalar& grad_scale, bool saturate,
    const OptionalTensor& random) {
  if (!has_kernel<FakeQuantizeFloatKernel>(x, scale, random ? *random : scale)) {
    return fake_quantize_float_composite(x, scale, format, grad_scale, saturate, random);
  }
  const auto step = converted(scale, computed_in(x));
  if (random) {
    const auto chance = random->to(computed_in(x));
    const Settings settings(format, grad_scale, saturate);
    return run_forward<FakeQuantizeFloatAtRandomKernel>(x, {&*step, &*step, &chance}, settings.ends);
  }
  return run_forward<FakeQuantizeFloatKernel>(x, {&*step, &*step}, Settings(format, grad_scale, saturate).ends);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<FakeQuantizeFloatGradient, fake_quantize_float_composite, fake_quantize_float_eager>::define(
      library,
      "fake_quantize_float(Tensor x, Tensor scale, str format, Scalar grad_scale=1.0, bool saturate=True, "
      "Tensor? random=None) -> Tensor");
}

}  // namespace ste
