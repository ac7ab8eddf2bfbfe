// The forwards of the clamps.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>

namespace ste {

// Clamps by comparisons, for bounds in x's dtype. inductor turns at::clamp into minimum and maximum, which give
// clamp(-0.0, 0.0, 1.0) the sign of the bound; and a jagged tensor has no at::clamp between tensors.
template <typename Bound>
at::Tensor clamp_by_comparison(const at::Tensor& x, const Bound& min_val, const Bound& max_val) {
  const auto raised = at::where(x.ge(min_val).logical_or(x.ne(x)), x, min_val);
  return at::where(raised.le(max_val).logical_or(raised.ne(raised)), raised, max_val);
}

// Between tensors, in x's dtype whatever that of the bounds.
at::Tensor tensor_clamp_composite(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);
at::Tensor tensor_clamp_eager(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

}  // namespace ste
