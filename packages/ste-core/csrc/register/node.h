// What the autograd nodes share. As for their ownership, torch 2.13 holds them by c10::intrusive_ptr, torch 2.6 by
// std::shared_ptr with a deleter of its own (deleteNode keeps long graphs from overflowing the stack).
#pragma once

#include "arguments.h"

#include "../memory/dispatch.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace ste {

using NodePtr = decltype(torch::autograd::Edge::function);

// Asks the type of Edge::function rather than the version, so that no version has to be listed here.
template <typename T, typename Pointer = NodePtr, typename... Args>
Pointer make_node(Args&&... args) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    // Found by argument-dependent lookup: the function does not exist in versions that do not take this branch.
    return Pointer(new T(std::forward<Args>(args)...), [](auto* node) { deleteNode(node); });
  } else {
    return Pointer(c10::make_intrusive<T>(std::forward<Args>(args)...));
  }
}

// A saved tensor, which may be undefined.
inline std::optional<at::Tensor> optional(at::Tensor tensor) {
  return tensor.defined() ? std::optional(std::move(tensor)) : std::nullopt;
}

// Whether the loops can take them: saved-tensor hooks may return any dtype and shape, not only those of what was saved.
inline bool are_alike(const at::Tensor& g, const at::Tensor& x) {
  const auto dtype = x.scalar_type();
  return is_floating(dtype) && g.scalar_type() == dtype && g.sizes() == x.sizes();
}

// The dtype of a gradient to a parameter: an integer dtype would lose the fraction. (Autograd casts to the dtype of the
// parameter that was differentiated.)
inline at::ScalarType gradient_dtype(const at::Tensor& parameter) {
  const auto dtype = parameter.scalar_type();
  return is_floating(dtype) ? dtype : at::kFloat;
}

// The tensor without its tangent, for use in the formula of a tangent.
inline at::Tensor primal_of(const at::Tensor& tensor) {
  return torch::autograd::isFwGradDefined(tensor) ? tensor._fw_primal(/*level=*/0) : tensor;
}

// Whether a backward can run its kernel: only on values that are neither traced nor differentiated themselves.
template <typename Kernel, typename... Tensors>
bool can_run(const at::Tensor& g, const at::Tensor& x, const Tensors&... parameters) {
  namespace autograd = torch::autograd;
  const bool are_values = !at::GradMode::is_enabled() && !c10::impl::dispatch_mode_enabled() && g.numel() > 0 &&
                          !autograd::isFwGradDefined(g) && !autograd::isFwGradDefined(x) &&
                          !(autograd::isFwGradDefined(parameters) || ...);
  // Read sizes only from dense tensors: others may have symbols for them, or none.
  return are_values && has_kernel<Kernel>(x, g, parameters...) && are_alike(g, x) &&
         (is_expandable(parameters, x) && ...);
}

}  // namespace ste
