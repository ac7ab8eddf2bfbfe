// The straight-through ops: each is a forward and a line of registration. The gradient is one for all of them.
#include "clamp.h"
#include "cpu/kernels.h"
#include "node.h"
#include "op.h"

#include <ATen/ops/ceil.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/round.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/trunc.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/functions/utils.h>

namespace ste {
namespace {

using torch::autograd::variable_list;

// The gradient that comes out is the tensor that went in; nothing is saved.
struct StraightThroughBackward final : torch::autograd::Node {
  variable_list apply(variable_list&& gradients) override { return std::move(gradients); }

  std::string name() const override { return "StraightThroughBackward"; }
};

struct StraightThrough {
  template <typename Below, typename... Args>
  static at::Tensor record(const Below& below, const at::Tensor& x, const Args&...) {
    namespace autograd = torch::autograd;
    const bool differentiable = autograd::isDifferentiableType(x.scalar_type());
    at::Tensor y = below();
    if (differentiable && autograd::compute_requires_grad(x)) {
      const auto node = make_node<StraightThroughBackward>();
      node->set_next_edges(autograd::collect_next_edges(x));
      autograd::set_history(y, node);
    }
    if (differentiable && autograd::isFwGradDefined(x)) {
      y._set_fw_grad(x._fw_grad(/*level=*/0), /*level=*/0, /*is_inplace_op=*/false);
    }
    return y;
  }
};

at::Tensor round(const at::Tensor& x) {
  return at::round(x);
}

at::Tensor ceil(const at::Tensor& x) {
  return at::ceil(x);
}

at::Tensor floor(const at::Tensor& x) {
  return at::floor(x);
}

at::Tensor trunc(const at::Tensor& x) {
  return at::trunc(x);
}

// What most tensors are takes no TensorIterator here, which for a small one is a fifth of a call; and at::trunc of
// these two dtypes takes 24 times as long as at::round.
template <auto composite, cpu::Integer which>
at::Tensor to_integer(const at::Tensor& x) {
  const bool has_loop = x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble;
  return has_loop && cpu::is_dense(x) ? cpu::to_integer(x, which) : composite(x);
}

// Not at::sign, whose value at NaN is 0 in ATen and NaN in ONNX Runtime.
at::Tensor ternary_sign_composite(const at::Tensor& x) {
  const auto constant = [&](int value) { return at::scalar_tensor(value, x.options().layout(at::kStrided)); };
  const auto not_positive = x.scalar_type() == at::kByte ? constant(0) : at::where(x.lt(0), constant(-1), constant(0));
  return at::where(x.gt(0), constant(1), not_positive);
}

at::Tensor ternary_sign_eager(const at::Tensor& x) {
  return cpu::is_dense(x) ? cpu::ternary_sign(x) : at::sign(x);
}

at::Tensor binary_sign_composite(const at::Tensor& x, const at::Scalar& low) {
  // In x's dtype: torch 2.6 makes no tensor of a number that the dtype does not hold.
  const auto lower = value_in_dtype("binary_sign_ste", "low", low, x);
  return at::where(x.ge(0), at::scalar_tensor(1, x.options()), at::scalar_tensor(lower, x.options()));
}

at::Tensor binary_sign_eager(const at::Tensor& x, const at::Scalar& low) {
  const auto* const kernels = kernels_for(x);
  if (kernels == nullptr || low.isSymbolic()) {
    return binary_sign_composite(x, low);
  }
  return kernels->binary_sign(x, value_in_dtype("binary_sign_ste", "low", low, x));
}

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
  return cpu::is_dense(x) ? cpu::scalar_clamp(x, bound.min, bound.max) : at::clamp(x, bound.min, bound.max);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<StraightThrough, round, to_integer<round, cpu::Integer::nearest>>::define(
      library, "round_ste(Tensor x) -> Tensor");
  Op<StraightThrough, ceil, to_integer<ceil, cpu::Integer::above>>::define(library, "ceil_ste(Tensor x) -> Tensor");
  Op<StraightThrough, floor, to_integer<floor, cpu::Integer::below>>::define(library, "floor_ste(Tensor x) -> Tensor");
  Op<StraightThrough, trunc, to_integer<trunc, cpu::Integer::toward_zero>>::define(
      library, "trunc_ste(Tensor x) -> Tensor");
  Op<StraightThrough, binary_sign_composite, binary_sign_eager>::define(
      library, "binary_sign_ste(Tensor x, Scalar low=0.0) -> Tensor");
  Op<StraightThrough, ternary_sign_composite, ternary_sign_eager>::define(
      library, "ternary_sign_ste(Tensor x) -> Tensor");
  Op<StraightThrough, scalar_clamp_composite, scalar_clamp_eager>::define(
      library, "scalar_clamp_ste(Tensor x, Scalar min_val, Scalar max_val) -> Tensor");
  Op<StraightThrough, tensor_clamp_composite, tensor_clamp_eager>::define(
      library, "tensor_clamp_ste(Tensor x, Tensor min_val, Tensor max_val) -> Tensor");
}

}  // namespace ste
