// Runs an elementwise function of tensors with any strides on a CUDA device.
#pragma once

#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <ATen/native/cuda/Loops.cuh>

namespace ste::cuda {

// The result has x's shape and dtype, whatever the others have.
template <typename... Tensors>
at::TensorIterator iterator_of(const at::Tensor& x, const Tensors&... others) {
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false).declare_static_dtype(x.scalar_type());
  config.add_owned_output(at::Tensor()).add_borrowed_const_input(x);
  (config.add_borrowed_const_input(others), ...);
  return config.build();
}

}  // namespace ste::cuda
