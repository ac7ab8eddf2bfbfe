// straight_through: the value of one tensor, the gradient of another.
#include "../register/op.h"
#include "../register/straight_through.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/functions/utils.h>

namespace ste {
namespace {

// A copy in either case: if hard is not floating-point, its dtype is not soft's.
at::Tensor copy_of_hard(const at::Tensor& hard, const at::Tensor& soft) {
  return hard.is_floating_point() ? hard.clone() : hard.to(soft.scalar_type());
}

struct GradientToSoft {
  static constexpr bool takes_one_shape = true;

  static void check(const char* op, const at::Tensor& hard, const at::Tensor& soft) {
    check_hard_and_soft(op, hard, soft);
  }

  template <typename Below>
  static at::Tensor record(const Below& below, const at::Tensor& /*hard*/, const at::Tensor& soft) {
    namespace autograd = torch::autograd;
    at::Tensor y = below();
    if (autograd::compute_requires_grad(soft)) {
      // The autograd engine casts the incoming gradient to soft's dtype.
      const auto node = make_node<BackwardNode<StraightThroughBackward>>(NoSettings());
      node->set_next_edges(autograd::collect_next_edges(soft));
      autograd::set_history(y, node);
    }
    if (autograd::isFwGradDefined(soft)) {
      y._set_fw_grad(soft._fw_grad(/*level=*/0).to(y.scalar_type()), /*level=*/0, /*is_inplace_op=*/false);
    }
    return y;
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<GradientToSoft, copy_of_hard>::define(library, "straight_through(Tensor hard, Tensor soft) -> Tensor");
}

}  // namespace ste
