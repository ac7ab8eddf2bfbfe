// binary_sign_ste and ternary_sign_ste.
#include "elements.h"
#include "gradient.h"
#include "kernels.h"

#include "../memory/forward.h"
#include "../register/op.h"

#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/where.h>

namespace ste {

constinit BinarySignKernel::Cuda BinarySignKernel::cuda = nullptr;
constinit TernaryThresholdKernel::Cuda TernaryThresholdKernel::cuda = nullptr;
constinit SurrogateKernel::Cuda SurrogateKernel::cuda = nullptr;

namespace {

at::Tensor binary_sign_composite(
    const at::Tensor& x, const at::Scalar& low, c10::string_view /*surrogate*/, const OptionalTensor& /*alpha*/) {
  // In x's dtype: torch 2.6 cannot make a tensor from a number that the dtype does not hold.
  const auto lower = value_in_dtype("binary_sign_ste", "low", low, x);
  return at::where(x.ge(0), at::scalar_tensor(1, x.options()), at::scalar_tensor(lower, x.options()));
}

at::Tensor binary_sign_eager(
    const at::Tensor& x, const at::Scalar& low, c10::string_view surrogate, const OptionalTensor& alpha) {
  if (low.isSymbolic() || !has_kernel<BinarySignKernel>(x)) {
    return binary_sign_composite(x, low, surrogate, alpha);
  }
  return run_forward<BinarySignKernel>(x, {}, number(value_in_dtype("binary_sign_ste", "low", low, x)));
}

// Not at::sign, whose value at NaN is 0 in ATen and NaN in ONNX Runtime.
at::Tensor ternary_sign_composite(
    const at::Tensor& x, const OptionalTensor& threshold, c10::string_view /*surrogate*/,
    const OptionalTensor& /*alpha*/) {
  const auto constant = [&](int value) { return at::scalar_tensor(value, x.options().layout(at::kStrided)); };
  if (threshold) {
    const auto dtype = computed_in(x);
    const auto wide = x.to(dtype);
    const auto limit = threshold->to(dtype);
    return at::where(wide.gt(limit), constant(1), at::where(wide.lt(-limit), constant(-1), constant(0)));
  }
  const auto not_positive = x.scalar_type() == at::kByte ? constant(0) : at::where(x.lt(0), constant(-1), constant(0));
  return at::where(x.gt(0), constant(1), not_positive);
}

at::Tensor ternary_sign_eager(
    const at::Tensor& x, const OptionalTensor& threshold, c10::string_view surrogate, const OptionalTensor& alpha) {
  if (!threshold) {
    return has_kernel<TernarySignKernel>(x) ? run_forward<TernarySignKernel>(x, {}) : at::sign(x);
  }
  if (!has_kernel<TernaryThresholdKernel>(x, *threshold)) {
    return ternary_sign_composite(x, threshold, surrogate, alpha);
  }
  const auto limit = threshold->to(computed_in(x));
  return run_forward<TernaryThresholdKernel>(x, {&limit});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<SignGradient, binary_sign_composite, binary_sign_eager>::define(
      library, "binary_sign_ste(Tensor x, Scalar low=0.0, str surrogate=\"identity\", Tensor? alpha=None) -> Tensor");
  Op<SignGradient, ternary_sign_composite, ternary_sign_eager>::define(
      library,
      "ternary_sign_ste(Tensor x, Tensor? threshold=None, str surrogate=\"identity\", Tensor? alpha=None) -> Tensor");
}

}  // namespace ste
