// The gradient of a straight-through op, for Op.
#pragma once

#include "node.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <array>
#include <utility>

namespace ste {

// Returns the incoming gradient itself, the same tensor. Nothing is saved.
struct StraightThroughBackward {
  using Settings = NoSettings;
  static constexpr size_t kSaved = 0;
  static constexpr size_t kInputs = 1;
  static const char* name() { return "StraightThroughBackward"; }

  static torch::autograd::variable_list gradients(
      torch::autograd::variable_list&& incoming, std::array<at::Tensor, 0>&& /*saved*/,
      const std::array<bool, 1>& /*needed*/, const NoSettings& /*settings*/) {
    return std::move(incoming);
  }
};

struct StraightThrough {
  template <typename Below, typename... Args>
  static at::Tensor record(const Below& below, const at::Tensor& x, const Args&...) {
    namespace autograd = torch::autograd;
    const bool differentiable = autograd::isDifferentiableType(x.scalar_type());
    at::Tensor y = below();
    if (differentiable && autograd::compute_requires_grad(x)) {
      const auto node = make_node<BackwardNode<StraightThroughBackward>>(NoSettings());
      node->set_next_edges(autograd::collect_next_edges(x));
      autograd::set_history(y, node);
    }
    if (differentiable && autograd::isFwGradDefined(x)) {
      y._set_fw_grad(x._fw_grad(/*level=*/0), /*level=*/0, /*is_inplace_op=*/false);
    }
    return y;
  }
};

}  // namespace ste
