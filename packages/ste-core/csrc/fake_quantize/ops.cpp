// fake_quantize: to a grid of integers and back, differentiable in x, in the scale and in the zero point.
#include "kernels.h"

#include "../clamp/clamp.h"
#include "../memory/backward.h"
#include "../memory/forward.h"
#include "../register/node.h"
#include "../register/op.h"

#include <ste/ops.h>

#include <ATen/Dispatch.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ScalarOps.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/round.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace ste {

constinit FakeQuantizeKernel::Cuda FakeQuantizeKernel::cuda = nullptr;
constinit FakeQuantizeBackwardKernel::Cuda FakeQuantizeBackwardKernel::cuda = nullptr;

namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// What is no tensor among the arguments.
struct Settings {
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

  c10::SymInt quant_min;
  c10::SymInt quant_max;
  at::Scalar grad_scale;
  Inside inside;
};

// To look at the value of a compiler's symbol would specialize the graph to it.
bool is_one(const at::Scalar& factor) {
  return !factor.isSymbolic() && factor.toDouble() == 1;
}

at::Tensor in_dtype(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : tensor.to(dtype);
}

OptionalTensor in_dtype(const OptionalTensor& tensor, at::ScalarType dtype) {
  return tensor ? OptionalTensor(in_dtype(*tensor, dtype)) : std::nullopt;
}

template <typename From>
void convert_to(const at::Tensor& to, const at::Tensor& from) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, to.scalar_type(), "convert_to", [&] {
    const auto* const begin = from.const_data_ptr<From>();
    std::transform(begin, begin + from.numel(), to.mutable_data_ptr<scalar_t>(), &c10::convert<scalar_t, From>);
  });
}

// What the kernels take and give, in another dtype. For a few numbers `to` takes as long as all of the rest of a call.
MaybeOwnedTensor converted(const at::Tensor& dense, at::ScalarType dtype) {
  constexpr int64_t few = 1024;
  const auto type = dense.scalar_type();
  if (type == dtype) {
    return MaybeOwnedTensor::borrowed(dense);
  }
  if (!is_floating(type) || !dense.is_cpu() || !dense.is_contiguous() || dense.numel() > few) {
    return MaybeOwnedTensor::owned(dense.to(dtype));
  }
  at::Tensor result(at::detail::empty_cpu(dense.sizes(), dtype, false, at::MemoryFormat::Contiguous));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, type, "converted", [&] { convert_to<scalar_t>(result, dense); });
  return MaybeOwnedTensor::owned(std::move(result));
}

// As the kernels take it: 0 where there is none.
MaybeOwnedTensor or_zero(const OptionalTensor& zero_point, const at::Tensor& scale, at::ScalarType dtype) {
  if (zero_point) {
    return converted(*zero_point, dtype);
  }
  return MaybeOwnedTensor::owned(
      scale.is_cpu() ? at::detail::scalar_tensor_static(0, dtype, at::kCPU)  // at::zeros without what takes its time
                     : at::zeros({}, scale.options().dtype(dtype)));
}

OptionalTensor detached(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(tensor->detach()) : std::nullopt;
}

// The parameter, to which the gradient is multiplied by a factor. 1 less a sign that is 1 everywhere is 0, and has a
// gradient, where the parameter is not finite too.
at::Tensor with_gradient_times(const at::Scalar& factor, const at::Tensor& parameter, at::ScalarType dtype) {
  const auto wide = in_dtype(parameter, dtype);
  return is_one(factor) ? wide : wide.detach() - (1 - binary_sign_ste(wide, 1)) * factor;
}

at::Tensor less(const at::Tensor& q, const OptionalTensor& zero_point) {
  return zero_point ? q - *zero_point : q;
}

// x on the grid, by operations of torch, in the dtype that it is computed in.
struct Grid {
  Grid(const at::Tensor& x, const at::Tensor& step, const OptionalTensor& shift, const Settings& settings)
      : dtype(computed_in(x)),
        scale(in_dtype(step, dtype)),
        zero_point(in_dtype(shift, dtype)),
        scaled(in_dtype(x, dtype) / scale) {
    const auto rounded = at::round(scaled);
    const auto sum = zero_point ? rounded + *zero_point : rounded;
    // There is no -0. (To add 0 gives that too, but the exporter to ONNX leaves out what adds a constant 0.)
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

// The derivatives around a grid of values, which are no functions of the arguments.
struct Slopes : Grid {
  Slopes(const at::Tensor& x, const at::Tensor& step, const OptionalTensor& shift, const Settings& settings)
      : Grid(x.detach(), step.detach(), detached(shift), settings) {
    if (settings.inside == Inside::rounded) {
      is_inside = shifted.ge(low).logical_and(shifted.le(high));
    } else {
      const auto exact = zero_point ? scaled + *zero_point : scaled;
      is_inside = exact.gt(low).logical_and(exact.lt(high));
    }
  }

  // By the scale, which is a function of the zero point outside of the range, and the other way round.
  at::Tensor by_scale(const OptionalTensor& original, const at::Scalar& grad_scale) const {
    const auto outside = original ? OptionalTensor(with_gradient_times(grad_scale, *original, dtype)) : std::nullopt;
    return at::where(is_inside, less(q, zero_point) - scaled, less(q, outside));
  }
  at::Tensor by_zero_point(const at::Tensor& original, const at::Scalar& grad_scale) const {
    return at::where(is_inside, 0, -with_gradient_times(grad_scale, original, dtype));
  }

  at::Tensor is_inside;
};

class FakeQuantizeBackward final : public torch::autograd::Node {
 public:
  FakeQuantizeBackward(
      const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point, const Settings& settings)
      : x_(x, /*is_output=*/false),
        scale_(scale, /*is_output=*/false),
        zero_point_(zero_point, /*is_output=*/false),
        settings_(settings) {}

  variable_list apply(variable_list&& gradients) override {
    const auto& g = gradients[0];
    if (!g.defined()) {
      return variable_list(3);
    }
    const auto x = x_.unpack();
    const auto scale = scale_.unpack();
    auto unpacked = zero_point_.unpack();
    const OptionalTensor zero_point = unpacked.defined() ? OptionalTensor(std::move(unpacked)) : std::nullopt;
    const std::array<bool, 3> needed{
        task_should_compute_output(0), task_should_compute_output(1),
        zero_point.has_value() && task_should_compute_output(2)};
    if (can_run<FakeQuantizeBackwardKernel>(g, x, scale, zero_point ? *zero_point : scale)) {
      const auto dtype = computed_in(x);
      const auto step = converted(scale, dtype);
      const auto shift = or_zero(zero_point, scale, dtype);
      auto [to_x, to_scale, to_zero_point] = run_backward<FakeQuantizeBackwardKernel>(
          g, x, {&*step, &*shift}, needed, settings_.grad_scale.toDouble(), settings_.ends_in(dtype));
      return {
          std::move(to_x), needed[1] ? *converted(to_scale, gradient_dtype(scale)) : at::Tensor(),
          needed[2] ? *converted(to_zero_point, gradient_dtype(*zero_point)) : at::Tensor()};
    }
    const Slopes slopes(x, scale, zero_point, settings_);
    const auto wide = in_dtype(g, slopes.dtype);
    const auto to_parameter = [&](const at::Tensor& change, const at::Tensor& parameter) {
      return (change.sum_to_size_symint(parameter.sym_sizes()) * settings_.grad_scale).to(gradient_dtype(parameter));
    };
    variable_list result(3);
    if (needed[0]) {
      result[0] = at::where(slopes.is_inside, g, 0);
    }
    if (needed[1]) {
      result[1] = to_parameter(wide * slopes.by_scale(zero_point, settings_.grad_scale), scale);
    }
    if (needed[2]) {
      result[2] = to_parameter(wide * slopes.by_zero_point(scale, settings_.grad_scale), *zero_point);
    }
    return result;
  }

  std::string name() const override { return "FakeQuantizeBackward"; }

  void release_variables() override {
    x_.reset_data();
    scale_.reset_data();
    zero_point_.reset_data();
  }

 private:
  SavedVariable x_;
  SavedVariable scale_;
  SavedVariable zero_point_;
  Settings settings_;
};

OptionalTensor tangent_of(const at::Tensor& tensor) {
  const auto& tangent = tensor._fw_grad(/*level=*/0);
  return tangent.defined() ? OptionalTensor(tangent) : std::nullopt;
}

struct FakeQuantizeGradient {
  static void check(
      const char* op, const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point,
      const c10::SymInt& quant_min, const c10::SymInt& quant_max, const at::Scalar& /*grad_scale*/,
      c10::string_view inside) {
    check_quantization(op, x, scale, zero_point, quant_min, quant_max);
    TORCH_CHECK_VALUE(
        inside == "rounded" || inside == "scaled", op, ": inside must be rounded or scaled, got ", inside);
  }

  template <typename Below>
  static at::Tensor record(
      const Below& below, const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point,
      const c10::SymInt& quant_min, const c10::SymInt& quant_max, const at::Scalar& grad_scale,
      c10::string_view inside) {
    namespace autograd = torch::autograd;
    at::Tensor y = below();
    const at::Tensor none;
    const at::Tensor& shift = zero_point ? *zero_point : none;
    const Settings settings(quant_min, quant_max, grad_scale, inside);
    if (autograd::compute_requires_grad(x, scale, shift)) {
      const auto node = make_node<FakeQuantizeBackward>(x, scale, shift, settings);
      node->set_next_edges(autograd::collect_next_edges(x, scale, shift));
      autograd::set_history(y, node);
    }
    if (autograd::isFwGradDefined(x) || autograd::isFwGradDefined(scale) || autograd::isFwGradDefined(shift)) {
      y._set_fw_grad(tangent(x, scale, zero_point, settings), /*level=*/0, /*is_inplace_op=*/false);
    }
    return y;
  }

 private:
  static at::Tensor tangent(
      const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point, const Settings& settings) {
    const auto& grad_scale = settings.grad_scale;
    const Slopes slopes(x, scale, zero_point, settings);
    const auto zero = at::scalar_tensor(0, slopes.scaled.options());
    const auto of_x = tangent_of(x);
    auto sum = at::where(slopes.is_inside, of_x ? in_dtype(*of_x, slopes.dtype) : zero, zero);
    if (const auto of_scale = tangent_of(scale)) {
      const auto original = zero_point ? OptionalTensor(primal_of(*zero_point)) : std::nullopt;
      sum = sum + slopes.by_scale(original, grad_scale) * (*of_scale * grad_scale);
    }
    if (const auto of_zero_point = zero_point ? tangent_of(*zero_point) : std::nullopt) {
      sum = sum + slopes.by_zero_point(primal_of(scale), grad_scale) * (*of_zero_point * grad_scale);
    }
    return sum.to(x.scalar_type());
  }
};

at::Tensor fake_quantize_composite(
    const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point, c10::SymInt quant_min,
    c10::SymInt quant_max, const at::Scalar& grad_scale, c10::string_view inside) {
  const Settings settings(std::move(quant_min), std::move(quant_max), grad_scale, inside);
  return in_dtype(Grid(x, scale, zero_point, settings).values(), x.scalar_type());
}

at::Tensor fake_quantize_eager(
    const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point, c10::SymInt quant_min,
    c10::SymInt quant_max, const at::Scalar& grad_scale, c10::string_view inside) {
  if (!has_kernel<FakeQuantizeKernel>(x, scale, zero_point ? *zero_point : scale)) {
    return fake_quantize_composite(
        x, scale, zero_point, std::move(quant_min), std::move(quant_max), grad_scale, inside);
  }
  const auto dtype = computed_in(x);
  const Settings settings(std::move(quant_min), std::move(quant_max), grad_scale, inside);
  const auto step = converted(scale, dtype);
  const auto shift = or_zero(zero_point, scale, dtype);
  return run_forward<FakeQuantizeKernel>(x, {&*step, &*shift}, settings.ends_in(dtype));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<FakeQuantizeGradient, fake_quantize_composite, fake_quantize_eager>::define(
      library,
      "fake_quantize(Tensor x, Tensor scale, Tensor? zero_point=None, SymInt quant_min=-128, SymInt quant_max=127, "
      "Scalar grad_scale=1.0, str inside=\"rounded\") -> Tensor");
}

}  // namespace ste
