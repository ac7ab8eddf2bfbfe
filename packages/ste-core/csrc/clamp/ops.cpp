// scalar_clamp_ste, tensor_clamp_ste, and tensor_clamp, which is differentiable in x and in both bounds, with its own
// rule at a bound. (torch.clamp's gradient there depends on the version: 1 in 2.13; 0 or one half in 2.14.)
#include "clamp.h"
#include "kernels.h"

#include "../memory/backward.h"
#include "../memory/forward.h"
#include "../register/node.h"
#include "../register/op.h"
#include "../register/straight_through.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <array>
#include <utility>

namespace ste {

constinit ClampBackwardKernel::Cuda ClampBackwardKernel::cuda = nullptr;

at::Tensor clamp_by_extrema(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val) {
  return at::minimum(at::maximum(x, min_val), max_val);
}

namespace {

using torch::autograd::variable_list;

// Which of the three arguments each element of the result, and so of the gradient, belongs to.
struct Owner {
  Owner(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val)
      : is_x(x.ge(min_val).logical_and(x.le(max_val))),
        is_max(x.gt(max_val).logical_or(min_val.gt(max_val))),
        is_min(x.lt(min_val).logical_and(is_max.logical_not())) {}

  at::Tensor is_x;
  at::Tensor is_max;
  at::Tensor is_min;
};

template <typename... Tensors>
bool are_of_one_dtype(const at::Tensor& first, const Tensors&... others) {
  return ((others.scalar_type() == first.scalar_type()) && ...);
}

struct TensorClampBackward {
  using Settings = NoSettings;
  static constexpr size_t kSaved = 3;
  static constexpr size_t kInputs = 3;
  static const char* name() { return "TensorClampBackward"; }

  static variable_list gradients(
      variable_list&& incoming, std::array<at::Tensor, kSaved>&& saved, const std::array<bool, kInputs>& needed,
      const NoSettings& /*settings*/) {
    const auto& g = incoming[0];
    const auto& [x, min_val, max_val] = saved;
    if (can_run<ClampBackwardKernel>(g, x, min_val, max_val) && are_of_one_dtype(g, x, min_val, max_val)) {
      auto [to_x, to_min, to_max] = run_backward<ClampBackwardKernel>(g, x, {&min_val, &max_val}, needed, /*factor=*/1);
      return {std::move(to_x), std::move(to_min), std::move(to_max)};
    }
    const Owner owner(x, min_val, max_val);
    auto widest = at::kFloat;  // or wider: torch would round 16-bit sums between threads
    for (const auto dtype : {x.scalar_type(), min_val.scalar_type(), max_val.scalar_type()}) {
      widest = c10::promoteTypes(widest, dtype);
    }
    const auto bound_gradient = [&](const at::Tensor& mask, const at::Tensor& bound) {
      return at::where(mask, g, 0).to(widest).sum_to_size_symint(bound.sym_sizes()).to(gradient_dtype(bound));
    };
    return {
        needed[0] ? at::where(owner.is_x, g, 0) : at::Tensor(),
        needed[1] ? bound_gradient(owner.is_min, min_val) : at::Tensor(),
        needed[2] ? bound_gradient(owner.is_max, max_val) : at::Tensor(),
    };
  }
};

at::Tensor tangent_or_zero(const at::Tensor& tensor) {
  const auto& tangent = tensor._fw_grad(/*level=*/0);
  return tangent.defined() ? tangent : at::scalar_tensor(0, tensor.options());
}

struct ClampGradient {
  template <typename Below>
  static at::Tensor record(
      const Below& below, const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val) {
    namespace autograd = torch::autograd;
    const bool differentiable = autograd::isDifferentiableType(x.scalar_type());
    at::Tensor y = below();
    if (differentiable && autograd::compute_requires_grad(x, min_val, max_val)) {
      const auto node = make_node<BackwardNode<TensorClampBackward>>(NoSettings(), x, min_val, max_val);
      node->set_next_edges(autograd::collect_next_edges(x, min_val, max_val));
      autograd::set_history(y, node);
    }
    if (differentiable &&
        (autograd::isFwGradDefined(x) || autograd::isFwGradDefined(min_val) || autograd::isFwGradDefined(max_val))) {
      const Owner owner(x, min_val, max_val);
      const auto bound = at::where(owner.is_max, tangent_or_zero(max_val), tangent_or_zero(min_val));
      const auto tangent =
          at::where(owner.is_x, tangent_or_zero(x), at::where(owner.is_max.logical_or(owner.is_min), bound, 0));
      y._set_fw_grad(tangent.to(x.scalar_type()), /*level=*/0, /*is_inplace_op=*/false);
    }
    return y;
  }
};

struct ScalarBounds {
  ScalarBounds(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val)
      : min(bound_in_dtype("scalar_clamp_ste", "min_val", min_val, x)),
        max(bound_in_dtype("scalar_clamp_ste", "max_val", max_val, x)) {}
  at::Scalar min;
  at::Scalar max;
};

bool may_be_zero(const at::Scalar& bound) {
  return bound.isSymbolic() || bound.toDouble() == 0;
}

// Keeps the sign of a zero beside a bound of zero: inductor's maximum of -0.0 and 0.0 is 0.0.
at::Tensor clamp_by_comparison(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val) {
  const auto raised = at::where(x.ge(min_val).logical_or(x.ne(x)), x, min_val);
  return at::where(raised.le(max_val).logical_or(raised.ne(raised)), raised, max_val);
}

at::Tensor scalar_clamp_composite(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val) {
  const ScalarBounds bound(x, min_val, max_val);
  const auto options = x.options().layout(at::kStrided);
  const auto min = at::scalar_tensor(bound.min, options);
  const auto max = at::scalar_tensor(bound.max, options);
  return may_be_zero(bound.min) || may_be_zero(bound.max) ? clamp_by_comparison(x, min, max)
                                                          : clamp_by_extrema(x, min, max);
}

at::Tensor scalar_clamp_eager(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val) {
  const ScalarBounds bound(x, min_val, max_val);
  return has_kernel<ScalarClampKernel>(x) ? run_forward<ScalarClampKernel>(x, {}, number(bound.min), number(bound.max))
                                          : at::clamp(x, bound.min, bound.max);
}

at::Tensor tensor_clamp_composite(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val) {
  const auto dtype = x.scalar_type();
  return clamp_by_extrema(x, *bound_in_dtype(Side::min, min_val, dtype), *bound_in_dtype(Side::max, max_val, dtype));
}

at::Tensor tensor_clamp_eager(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val) {
  const auto dtype = x.scalar_type();
  const auto min = bound_in_dtype(Side::min, min_val, dtype);
  const auto max = bound_in_dtype(Side::max, max_val, dtype);
  return has_kernel<TensorClampKernel>(x, *min, *max) ? run_forward<TensorClampKernel>(x, {&*min, &*max})
                                                      : at::clamp(x, *min, *max);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<StraightThrough, scalar_clamp_composite, scalar_clamp_eager>::define(
      library, "scalar_clamp_ste(Tensor x, Scalar min_val, Scalar max_val) -> Tensor");
  Op<StraightThrough, tensor_clamp_composite, tensor_clamp_eager>::define(
      library, "tensor_clamp_ste(Tensor x, Tensor min_val, Tensor max_val) -> Tensor");
  Op<ClampGradient, tensor_clamp_composite, tensor_clamp_eager>::define(
      library, "tensor_clamp(Tensor x, Tensor min_val, Tensor max_val) -> Tensor");
}

}  // namespace ste
