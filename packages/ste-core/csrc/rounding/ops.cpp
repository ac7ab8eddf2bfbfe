// round_ste, ceil_ste, floor_ste, trunc_ste and stochastic_round_ste.
#include "elements.h"
#include "kernels.h"

#include "../memory/forward.h"
#include "../register/expression.h"
#include "../register/op.h"
#include "../register/straight_through.h"

#include <ATen/ops/ceil.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/round.h>
#include <ATen/ops/trunc.h>

namespace ste {

constinit StochasticRoundKernel::Cuda StochasticRoundKernel::cuda = nullptr;

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

// For most tensors this needs no TensorIterator, which is a fifth of a call for a small one; and for these two dtypes,
// at::trunc takes 24 times as long as at::round.
template <auto composite, Integer which>
at::Tensor to_integer(const at::Tensor& x) {
  return has_kernel<ToIntegerKernel>(x) ? run_forward<ToIntegerKernel>(x, {}, which) : composite(x);
}

at::Tensor stochastic_round(const at::Tensor& x, const at::Tensor& random) {
  const auto dtype = computed_in(x);
  return element::round_at_random(Expression(x.to(dtype)), Expression(random.to(dtype))).tensor().to(x.scalar_type());
}

at::Tensor stochastic_round_eager(const at::Tensor& x, const at::Tensor& random) {
  if (!has_kernel<StochasticRoundKernel>(x, random)) {
    return stochastic_round(x, random);
  }
  const auto wide = random.to(computed_in(x));
  return run_forward<StochasticRoundKernel>(x, {&wide});
}

struct StochasticGradient : StraightThrough {
  static constexpr bool takes_one_shape = true;

  static void check(const char* op, const at::Tensor& x, const at::Tensor& random) {
    check_is_floating(op, "x", x);
    check_beside(op, "random", random, x);
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<StraightThrough, round, to_integer<round, Integer::nearest>>::define(library, "round_ste(Tensor x) -> Tensor");
  Op<StraightThrough, ceil, to_integer<ceil, Integer::above>>::define(library, "ceil_ste(Tensor x) -> Tensor");
  Op<StraightThrough, floor, to_integer<floor, Integer::below>>::define(library, "floor_ste(Tensor x) -> Tensor");
  Op<StraightThrough, trunc, to_integer<trunc, Integer::toward_zero>>::define(library, "trunc_ste(Tensor x) -> Tensor");
  Op<StochasticGradient, stochastic_round, stochastic_round_eager>::define(
      library, "stochastic_round_ste(Tensor x, Tensor random) -> Tensor");
}

}  // namespace ste
