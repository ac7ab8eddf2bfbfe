// fake_quantize: x on a grid of integers and back, differentiable in x, in the scale and in the zero point.
#include "elements.h"
#include "gradient.h"
#include "kernels.h"

#include "../clamp/clamp.h"
#include "../memory/forward.h"
#include "../register/expression.h"
#include "../register/op.h"

#include <ste/ops.h>

#include <ATen/ScalarOps.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/round.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <tuple>
#include <utility>

namespace ste {

constinit FakeQuantizeKernel::Cuda FakeQuantizeKernel::cuda = nullptr;
constinit FakeQuantizeAtRandomKernel::Cuda FakeQuantizeAtRandomKernel::cuda = nullptr;
constinit FakeQuantizeBackwardKernel::Cuda FakeQuantizeBackwardKernel::cuda = nullptr;

namespace {

struct Slopes;

// The arguments that are not tensors.
struct Settings {
  using BackwardKernel = FakeQuantizeBackwardKernel;
  using Slopes = ste::Slopes;
  static constexpr auto kNode = "FakeQuantizeBackward";

  Settings() = default;
  Settings(c10::SymInt min, c10::SymInt max, at::Scalar factor, c10::string_view rule)
      : quant_min(std::move(min)),
        quant_max(std::move(max)),
        grad_scale(std::move(factor)),
        inside(rule == "scaled" ? Inside::scaled : Inside::rounded) {}

  // For the kernels.
  Ends ends_in(at::ScalarType dtype) const {
    return {
        end_in_dtype(Side::min, quant_min.guard_int(__FILE__, __LINE__), dtype),
        end_in_dtype(Side::max, quant_max.guard_int(__FILE__, __LINE__), dtype), inside};
  }

  // The zero point; 0 if there is none.
  static MaybeOwnedTensor second_argument(
      const OptionalTensor& zero_point, const at::Tensor& scale, at::ScalarType dtype) {
    if (zero_point) {
      return converted(*zero_point, dtype);
    }
    return MaybeOwnedTensor::owned(
        scale.is_cpu() ? at::detail::scalar_tensor_static(0, dtype, at::kCPU)  // at::zeros without what makes it slow
                       : at::zeros({}, scale.options().dtype(dtype)));
  }

  auto fields() { return std::tie(quant_min, quant_max, grad_scale, inside); }
  auto fields() const { return std::tie(quant_min, quant_max, grad_scale, inside); }

  c10::SymInt quant_min;
  c10::SymInt quant_max;
  at::Scalar grad_scale;
  Inside inside = Inside::rounded;
};

// Looking at the value of a compiler's symbol would specialize the graph to it.
bool is_one(const at::Scalar& factor) {
  return !factor.isSymbolic() && factor.toDouble() == 1;
}

// The parameter, with a gradient that is multiplied by a factor. 1 minus a sign that is 1 everywhere is 0, and has a
// gradient even if the parameter is not finite.
at::Tensor with_gradient_times(const at::Scalar& factor, const at::Tensor& parameter, at::ScalarType dtype) {
  const auto wide = in_dtype(parameter, dtype);
  return is_one(factor) ? wide : wide.detach() - (1 - binary_sign_ste(wide, 1)) * factor;
}

at::Tensor round_at_random(const at::Tensor& x, const at::Tensor& random) {
  return element::round_at_random(Expression(x), Expression(in_dtype(random, x.scalar_type()))).tensor();
}

at::Tensor less(const at::Tensor& q, const OptionalTensor& zero_point) {
  return zero_point ? q - *zero_point : q;
}

// x on the grid as torch operations, in the dtype of the computation.
struct Grid {
  Grid(
      const at::Tensor& x, const at::Tensor& step, const OptionalTensor& shift, const OptionalTensor& random,
      const Settings& settings)
      : dtype(computed_in(x)),
        scale(in_dtype(step, dtype)),
        zero_point(shift ? OptionalTensor(in_dtype(*shift, dtype)) : std::nullopt),
        scaled(in_dtype(x, dtype) / scale) {
    const auto rounded = random ? round_at_random(scaled, *random) : at::round(scaled);
    const auto sum = zero_point ? rounded + *zero_point : rounded;
    // There is no -0. (Adding 0 would do too, but the ONNX exporter drops the addition of a constant 0.)
    shifted = at::where(sum.eq(0), 0, sum);
    const auto end = [&](Side side, const c10::SymInt& value) {
      const auto known = value.maybe_as_int();
      const auto number = known ? at::Scalar(end_in_dtype(side, *known, dtype)) : at::Scalar(value);
      return at::scalar_tensor(number, x.options().dtype(dtype).layout(at::kStrided));
    };
    low = end(Side::min, settings.quant_min);
    high = end(Side::max, settings.quant_max);
    q = clamp_by_extrema(shifted, low, high);
  }

  at::Tensor values() const { return less(q, zero_point) * scale; }

  at::ScalarType dtype;
  at::Tensor scale;
  OptionalTensor zero_point;
  at::Tensor scaled;
  at::Tensor shifted;
  at::Tensor low;
  at::Tensor high;
  at::Tensor q;
};

// The derivatives, from a grid of values that are not functions of the arguments.
struct Slopes : Grid {
  Slopes(
      const at::Tensor& x, const at::Tensor& step, const OptionalTensor& shift, const OptionalTensor& random,
      const Settings& settings)
      : Grid(x.detach(), step.detach(), detached(shift), detached(random), settings) {
    if (settings.inside == Inside::rounded) {
      is_inside = shifted.ge(low).logical_and(shifted.le(high));
    } else {
      const auto exact = zero_point ? scaled + *zero_point : scaled;
      is_inside = exact.gt(low).logical_and(exact.lt(high));
    }
  }

  // Outside of the range, the derivative by the scale is a function of the zero point, and the other way round.
  at::Tensor by_scale(const OptionalTensor& original, const at::Scalar& grad_scale) const {
    const auto outside = original ? OptionalTensor(with_gradient_times(grad_scale, *original, dtype)) : std::nullopt;
    return at::where(is_inside, less(q, zero_point) - scaled, less(q, outside));
  }
  at::Tensor by_zero_point(const at::Tensor& original, const at::Scalar& grad_scale) const {
    return at::where(is_inside, 0, -with_gradient_times(grad_scale, original, dtype));
  }

  at::Tensor is_inside;
};

struct FakeQuantizeGradient {
  static void check(
      const char* op, const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point,
      const c10::SymInt& quant_min, const c10::SymInt& quant_max, const at::Scalar& /*grad_scale*/,
      c10::string_view inside, const OptionalTensor& random) {
    check_quantization(op, x, scale, zero_point, quant_min, quant_max);
    TORCH_CHECK_VALUE(
        inside == "rounded" || inside == "scaled", op, ": inside must be rounded or scaled, got ", inside);
    check_random(op, random, x);
  }

  template <typename Below>
  static at::Tensor record(
      const Below& below, const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point,
      const c10::SymInt& quant_min, const c10::SymInt& quant_max, const at::Scalar& grad_scale, c10::string_view inside,
      const OptionalTensor& random) {
    at::Tensor y = below();
    record_fake_quantize(y, x, scale, zero_point, random, Settings(quant_min, quant_max, grad_scale, inside));
    return y;
  }

  template <typename Call>
  static at::Tensor batched(
      const Batch& batch, const Call& call, const at::Tensor& x, const at::Tensor& scale,
      const OptionalTensor& zero_point, const c10::SymInt& quant_min, const c10::SymInt& quant_max,
      const at::Scalar& grad_scale, c10::string_view inside, const OptionalTensor& random) {
    return call(
        batch.input(x), batch.argument(scale), batch.argument(zero_point), quant_min, quant_max, grad_scale, inside,
        batch.input(random));
  }
};

at::Tensor fake_quantize_composite(
    const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point, c10::SymInt quant_min,
    c10::SymInt quant_max, const at::Scalar& grad_scale, c10::string_view inside, const OptionalTensor& random) {
  const Settings settings(std::move(quant_min), std::move(quant_max), grad_scale, inside);
  return in_dtype(Grid(x, scale, zero_point, random, settings).values(), x.scalar_type());
}

at::Tensor fake_quantize_eager(
    const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point, c10::SymInt quant_min,
    c10::SymInt quant_max, const at::Scalar& grad_scale, c10::string_view inside, const OptionalTensor& random) {
  if (!has_kernel<FakeQuantizeKernel>(x, scale, zero_point ? *zero_point : scale, random ? *random : scale)) {
    return fake_quantize_composite(
        x, scale, zero_point, std::move(quant_min), std::move(quant_max), grad_scale, inside, random);
  }
  const auto dtype = computed_in(x);
  const Settings settings(std::move(quant_min), std::move(quant_max), grad_scale, inside);
  const auto step = converted(scale, dtype);
  const auto shift = Settings::second_argument(zero_point, *step, dtype);
  if (random) {
    const auto chance = random->to(dtype);
    return run_forward<FakeQuantizeAtRandomKernel>(x, {&*step, &*shift, &chance}, settings.ends_in(dtype));
  }
  return run_forward<FakeQuantizeKernel>(x, {&*step, &*shift}, settings.ends_in(dtype));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<FakeQuantizeGradient, fake_quantize_composite, fake_quantize_eager>::define(
      library,
      "fake_quantize(Tensor x, Tensor scale, Tensor? zero_point=None, SymInt quant_min=-128, SymInt quant_max=127, "
      "Scalar grad_scale=1.0, str inside=\"rounded\", Tensor? random=None) -> Tensor");
}

}  // namespace ste
