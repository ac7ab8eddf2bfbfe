// The forwards of the clamps.
#pragma once

#include <ATen/core/Tensor.h>

namespace ste {

// Clamps by comparisons, between bounds in x's dtype. inductor turns at::clamp into minimum and maximum, which give
// clamp(-0.0, 0.0, 1.0) the sign of the bound; and a jagged tensor has no at::clamp between tensors.
at::Tensor clamp_by_comparison(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

// The clamp between tensors, in x's dtype whatever that of the bounds.
at::Tensor tensor_clamp_composite(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);
at::Tensor tensor_clamp_eager(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

}  // namespace ste
