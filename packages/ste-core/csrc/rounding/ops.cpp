// round_ste, ceil_ste, floor_ste and trunc_ste.
#include "kernels.h"

#include "../memory/forward.h"
#include "../register/op.h"
#include "../register/straight_through.h"

#include <ATen/ops/ceil.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/round.h>
#include <ATen/ops/trunc.h>

namespace ste {
namespace {

at::Tensor round(const at::Tensor& x) {
  return at::round(x);
}

at::Tensor ceil(const at::Tensor& x) {
  return at::ceil(x);
}

at::Tensor floor(const at::Tensor& x) {
  return at::floor(x);
}

at::Tensor trunc(const at::Tensor& x) {
  return at::trunc(x);
}

// What most tensors are takes no TensorIterator here, which for a small one is a fifth of a call; and at::trunc of
// these two dtypes takes 24 times as long as at::round.
template <auto composite, Integer which>
at::Tensor to_integer(const at::Tensor& x) {
  return has_kernel<ToIntegerKernel>(x) ? run_forward<ToIntegerKernel>(x, {}, which) : composite(x);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<StraightThrough, round, to_integer<round, Integer::nearest>>::define(library, "round_ste(Tensor x) -> Tensor");
  Op<StraightThrough, ceil, to_integer<ceil, Integer::above>>::define(library, "ceil_ste(Tensor x) -> Tensor");
  Op<StraightThrough, floor, to_integer<floor, Integer::below>>::define(library, "floor_ste(Tensor x) -> Tensor");
  Op<StraightThrough, trunc, to_integer<trunc, Integer::toward_zero>>::define(library, "trunc_ste(Tensor x) -> Tensor");
}

}  // namespace ste
