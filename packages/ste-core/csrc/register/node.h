// What the autograd nodes share. How they are owned: torch 2.13 holds them by c10::intrusive_ptr, torch 2.6 by
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
    // Found by argument-dependent lookup: the function is gone where this branch is not taken.
    return Pointer(new T(std::forward<Args>(args)...), [](auto* node) { deleteNode(node); });
  } else {
    return Pointer(c10::make_intrusive<T>(std::forward<Args>(args)...));
  }
}

// What was saved, which may be nothing.
inline std::optional<at::Tensor> optional(at::Tensor tensor) {
  return tensor.defined() ? std::optional(std::move(tensor)) : std::nullopt;
}

// Whether the loops can take them: hooks for saved tensors may return any dtype and shape, not only what was saved.
inline bool are_alike(const at::Tensor& g, const at::Tensor& x) {
  const auto dtype = x.scalar_type();
  return is_floating(dtype) && g.scalar_type() == dtype && g.sizes() == x.sizes();
}

// That of a gradient to a parameter: a whole one would lose what is behind the point. (Autograd casts to the dtype of
// the parameter that was differentiated.)
inline at::ScalarType gradient_dtype(const at::Tensor& parameter) {
  const auto dtype = parameter.scalar_type();
  return is_floating(dtype) ? dtype : at::kFloat;
}

// Without the tangent, in whose formula it is.
inline at::Tensor primal_of(const at::Tensor& tensor) {
  return torch::autograd::isFwGradDefined(tensor) ? tensor._fw_primal(/*level=*/0) : tensor;
}

// Whether a backward can be its kernel: of values alone, that are neither to be traced nor to be differentiated
// themselves.
template <typename Kernel, typename... Tensors>
bool can_run(const at::Tensor& g, const at::Tensor& x, const Tensors&... parameters) {
  namespace autograd = torch::autograd;
  const bool are_values = !at::GradMode::is_enabled() && !c10::impl::dispatch_mode_enabled() && g.numel() > 0 &&
                          !autograd::isFwGradDefined(g) && !autograd::isFwGradDefined(x) &&
                          !(autograd::isFwGradDefined(parameters) || ...);
  // Sizes are asked of dense tensors alone: others may have symbols for them, or none.
  return are_values && has_kernel<Kernel>(x, g, parameters...) && are_alike(g, x) &&
         (is_expandable(parameters, x) && ...);
}

}  // namespace ste
