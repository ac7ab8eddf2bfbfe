#pragma once

#include <ATen/core/Tensor.h>

namespace ste {

// The forward of tensor_clamp and of tensor_clamp_ste: in x's dtype, whatever that of the bounds.
at::Tensor tensor_clamp(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

}  // namespace ste
