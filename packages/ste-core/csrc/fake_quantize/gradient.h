// What the ops that put x on a grid and back share: the autograd node, the tangent, and how parameters reach the
// kernels.
//
// `Settings` holds an op's arguments that are not tensors. It has `grad_scale`; `ends_in(dtype)` and
// `second_argument(zero_point, step, dtype)`, for `Settings::BackwardKernel`; `Settings::Slopes`, the derivatives as
// torch operations; and what BackwardNode requires of it.
#pragma once

#include "../memory/backward.h"
#include "../register/node.h"

#include <ATen/Dispatch.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ScalarOps.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace ste {

inline at::Tensor in_dtype(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : tensor.to(dtype);
}

template <typename From>
void convert_to(const at::Tensor& to, const at::Tensor& from) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, to.scalar_type(), "convert_to", [&] {
    const auto* const begin = from.const_data_ptr<From>();
    std::transform(begin, begin + from.numel(), to.mutable_data_ptr<scalar_t>(), &c10::convert<scalar_t, From>);
  });
}

// An input or an output of a kernel, in another dtype. For a few numbers, `to` takes as long as all of the rest of a
// call.
inline MaybeOwnedTensor converted(const at::Tensor& dense, at::ScalarType dtype) {
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

// x, as a tensor that a compiler does not identify with the forward's. If it finds the same operations in the forward
// and the backward, it saves their results, a mask and a difference for each quantizer, instead of x, which is smaller;
// and it saves them in a layout with which the step of a convolutional network takes twice as long.
inline at::Tensor computed_again_from(const at::Tensor& x) {
  return x.detach().expand_symint(x.sym_sizes());
}

template <typename GivenSettings>
struct FakeQuantizeBackward {
  using Settings = GivenSettings;
  static constexpr size_t kSaved = 4;
  static constexpr size_t kInputs = 3;
  static const char* name() { return Settings::kNode; }

  static torch::autograd::variable_list gradients(
      torch::autograd::variable_list&& incoming, std::array<at::Tensor, kSaved>&& saved,
      const std::array<bool, kInputs>& needed_of_all, const Settings& settings) {
    using Kernel = typename Settings::BackwardKernel;
    const auto& g = incoming[0];
    auto& [x, scale, given_zero_point, given_random] = saved;
    const auto zero_point = optional(std::move(given_zero_point));
    const auto random = optional(std::move(given_random));
    const std::array<bool, kInputs> needed{
        needed_of_all[0], needed_of_all[1], zero_point.has_value() && needed_of_all[2]};
    if (!random && can_run<Kernel>(g, x, scale, zero_point ? *zero_point : scale)) {
      const auto dtype = computed_in(x);
      const auto step = converted(scale, dtype);
      const auto second = Settings::second_argument(zero_point, *step, dtype);
      auto [to_x, to_scale, to_zero_point] = run_backward<Kernel>(
          g, x, {&*step, &*second}, needed, settings.grad_scale.toDouble(), settings.ends_in(dtype));
      return {
          std::move(to_x), needed[1] ? *converted(to_scale, gradient_dtype(scale)) : at::Tensor(),
          needed[2] ? *converted(to_zero_point, gradient_dtype(*zero_point)) : at::Tensor()};
    }
    const typename Settings::Slopes slopes(computed_again_from(x), scale, zero_point, random, settings);
    const auto wide = in_dtype(g, slopes.dtype);
    const auto to_parameter = [&](const at::Tensor& change, const at::Tensor& parameter) {
      return (change.sum_to_size_symint(parameter.sym_sizes()) * settings.grad_scale).to(gradient_dtype(parameter));
    };
    torch::autograd::variable_list result(3);
    if (needed[0]) {
      result[0] = at::where(slopes.is_inside, g, 0);
    }
    if (needed[1]) {
      result[1] = to_parameter(wide * slopes.by_scale(zero_point, settings.grad_scale), scale);
    }
    if (needed[2]) {
      // Masked, because where g is infinite, its product with a slope of 0 is NaN.
      const auto counted = wide * slopes.by_zero_point(scale, settings.grad_scale);
      result[2] = to_parameter(at::where(slopes.is_inside, 0, counted), *zero_point);
    }
    return result;
  }
};

inline OptionalTensor tangent_of(const at::Tensor& tensor) {
  return optional(tensor._fw_grad(/*level=*/0));
}

template <typename Settings>
at::Tensor fake_quantize_tangent(
    const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point, const OptionalTensor& random,
    const Settings& settings) {
  const auto& grad_scale = settings.grad_scale;
  const typename Settings::Slopes slopes(x, scale, zero_point, random, settings);
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

// Makes y differentiable.
template <typename Settings>
void record_fake_quantize(
    const at::Tensor& y, const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& zero_point,
    const OptionalTensor& random, const Settings& settings) {
  namespace autograd = torch::autograd;
  const at::Tensor none;
  const at::Tensor& shift = zero_point ? *zero_point : none;
  const auto chance = random ? random->detach() : none;
  if (autograd::compute_requires_grad(x, scale, shift)) {
    const auto node = make_node<BackwardNode<FakeQuantizeBackward<Settings>>>(settings, x, scale, shift, chance);
    node->set_next_edges(autograd::collect_next_edges(x, scale, shift));
    autograd::set_history(y, node);
  }
  if (autograd::isFwGradDefined(x) || autograd::isFwGradDefined(scale) || autograd::isFwGradDefined(shift)) {
    const auto tangent = fake_quantize_tangent(x, scale, zero_point, random, settings);
    y._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
  }
}

}  // namespace ste
