// The kernels for what takes ATen more than one pass over the memory, of the devices that have them.
#pragma once

#include "ends.h"

#include <ATen/core/Tensor.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/Scalar.h>

#include <array>

namespace ste {

struct Kernels {
  // Whether a tensor is nothing but dense memory of the device: the kernels take no others.
  bool (*is_dense)(const at::Tensor& tensor);

  // The number is in x's dtype.
  at::Tensor (*binary_sign)(const at::Tensor& x, const at::Scalar& low);

  // The gradients to x, min_val and max_val, all of one dtype, those to the bounds summed to the bounds' shapes: in one
  // pass, and in double whatever the dtype. Undefined where not `needed`. The bits are the same each time, and depend
  // on no number of threads.
  std::array<at::Tensor, 3> (*clamp_backward)(
      const at::Tensor& g, const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val,
      const std::array<bool, 3>& needed);

  // The parameters are in float, or in double where x is, and broadcast to x's shape.
  at::Tensor (*fake_quantize)(
      const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point, const Ends& ends);

  // The gradients to x, in its dtype, and to the parameters, summed to their shapes as in `clamp_backward` and then
  // multiplied, in float or double.
  std::array<at::Tensor, 3> (*fake_quantize_backward)(
      const at::Tensor& g, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point, const Ends& ends,
      double grad_scale, const std::array<bool, 3>& needed);
};

// Whether a tensor is nothing but dense memory of the device with these keys.
template <c10::DispatchKey backend, c10::DispatchKey autograd, c10::DispatchKey autocast>
bool is_dense_on(const at::Tensor& tensor) {
  constexpr c10::DispatchKeySet dense{backend, c10::DispatchKey::ADInplaceOrView, autograd, autocast};
  return tensor.key_set().has(backend) && (tensor.key_set() | dense) == dense;
}

// Those of the device that the tensor is on, if it is dense there; else null.
const Kernels* kernels_of(const at::Tensor& tensor);

// Those of the one device that all of the tensors are dense on, or null.
template <typename... Tensors>
const Kernels* kernels_for(const at::Tensor& first, const Tensors&... others) {
  const auto* const kernels = kernels_of(first);
  [[maybe_unused]] const auto is_beside = [&](const at::Tensor& other) {
    return kernels->is_dense(other) && other.device() == first.device();
  };
  return kernels != nullptr && (is_beside(others) && ...) ? kernels : nullptr;
}

}  // namespace ste
