// The batching rule of an elementwise op: it moves vmap's dimension to the front, and calls the op itself. (A rule that
// called the op's forward instead would hide the op from the outer levels, and grad(vmap(f)) would be silently zero.)
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <c10/core/SymInt.h>

#include <optional>

namespace ste {

class Batch {
 public:
  // The level is the highest among the arguments. Those of a lower level are taken as they are.
  template <typename... Args>
  explicit Batch(const at::Tensor& x, const Args&... args) : rank_(x.dim()) {
    visit(x);
    (visit(args), ...);
  }

  // x with the batch first, whether it was batched or not: what broadcasts against x must not enlarge it. Also for
  // tensors that must have x's shape.
  at::Tensor input(const at::Tensor& x) const;
  std::optional<at::Tensor> input(const std::optional<at::Tensor>& x) const {
    return x ? std::optional(input(*x)) : std::nullopt;
  }

  // A bound with the batch first and its logical rank padded to x's. Arguments that are not tensors are passed on.
  at::Tensor argument(const at::Tensor& bound) const;
  std::optional<at::Tensor> argument(const std::optional<at::Tensor>& bound) const {
    return bound ? std::optional(argument(*bound)) : std::nullopt;
  }
  template <typename T>
  const T& argument(const T& value) const {
    return value;
  }

  at::Tensor output(const at::Tensor& y) const { return at::functorch::makeBatched(y, 0, level_); }

 private:
  void visit(const at::Tensor& tensor);
  void visit(const std::optional<at::Tensor>& tensor) {
    if (tensor) {
      visit(*tensor);
    }
  }
  template <typename T>
  void visit(const T&) {}

  // The tensor with the batch first, if it is batched at this level.
  std::optional<at::Tensor> batch_first(const at::Tensor& tensor) const;

  int64_t rank_;
  int64_t level_ = -1;
  c10::SymInt size_ = 0;
};

}  // namespace ste
