// The kernels for CUDA devices. ATen has the rest: round, ceil, floor, sign and clamp are one kernel each.
#pragma once

#include "../kernels.h"

namespace ste::cuda {

extern const Kernels kernels;

bool is_dense(const at::Tensor& tensor);

}  // namespace ste::cuda
