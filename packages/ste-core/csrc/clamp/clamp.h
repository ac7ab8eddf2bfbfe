// The clamp for what is composed of one.
#pragma once

#include <ATen/core/Tensor.h>

namespace ste {

// As compilers see a clamp between bounds in x's dtype: by maximum and minimum, for which inductor and ONNX Runtime
// give ATen's bits, and which jagged tensors have (at::clamp between tensors they have not).
at::Tensor clamp_by_extrema(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val);

}  // namespace ste
