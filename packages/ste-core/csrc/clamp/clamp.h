// The clamp, for ops that are composed of one.
#pragma once

#include <ATen/core/Tensor.h>

namespace ste {

// A clamp between bounds in x's dtype, as compilers see it: by maximum and minimum, for which inductor and ONNX Runtime
// give ATen's bits, and which jagged tensors support (they do not support at::clamp between tensors).
at::Tensor clamp_by_extrema(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

}  // namespace ste
