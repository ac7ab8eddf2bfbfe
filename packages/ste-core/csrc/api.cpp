// The functions of the public header: the ops, called through the dispatcher.
#include <ste/ops.h>

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/SymInt.h>

namespace ste {
namespace {

template <typename... Arguments>
auto find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<at::Tensor(Arguments...)>();
}

}  // namespace

at::Tensor round_ste(const at::Tensor& x) {
  static const auto op = find<const at::Tensor&>("ste::round_ste");
  return op.call(x);
}

at::Tensor ceil_ste(const at::Tensor& x) {
  static const auto op = find<const at::Tensor&>("ste::ceil_ste");
  return op.call(x);
}

at::Tensor floor_ste(const at::Tensor& x) {
  static const auto op = find<const at::Tensor&>("ste::floor_ste");
  return op.call(x);
}

at::Tensor trunc_ste(const at::Tensor& x) {
  static const auto op = find<const at::Tensor&>("ste::trunc_ste");
  return op.call(x);
}

at::Tensor stochastic_round_ste(const at::Tensor& x, const at::Tensor& random) {
  static const auto op = find<const at::Tensor&, const at::Tensor&>("ste::stochastic_round_ste");
  return op.call(x, random);
}

at::Tensor binary_sign_ste(
    const at::Tensor& x, const at::Scalar& low, c10::string_view surrogate, const std::optional<at::Tensor>& alpha) {
  static const auto op = find<const at::Tensor&, const at::Scalar&, c10::string_view, const std::optional<at::Tensor>&>(
      "ste::binary_sign_ste");
  return op.call(x, low, surrogate, alpha);
}

at::Tensor ternary_sign_ste(
    const at::Tensor& x, const std::optional<at::Tensor>& threshold, c10::string_view surrogate,
    const std::optional<at::Tensor>& alpha) {
  static const auto op =
      find<const at::Tensor&, const std::optional<at::Tensor>&, c10::string_view, const std::optional<at::Tensor>&>(
          "ste::ternary_sign_ste");
  return op.call(x, threshold, surrogate, alpha);
}

at::Tensor straight_through(const at::Tensor& hard, const at::Tensor& soft) {
  static const auto op = find<const at::Tensor&, const at::Tensor&>("ste::straight_through");
  return op.call(hard, soft);
}

at::Tensor scalar_clamp_ste(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val) {
  static const auto op = find<const at::Tensor&, const at::Scalar&, const at::Scalar&>("ste::scalar_clamp_ste");
  return op.call(x, min_val, max_val);
}

at::Tensor tensor_clamp_ste(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val) {
  static const auto op = find<const at::Tensor&, const at::Tensor&, const at::Tensor&>("ste::tensor_clamp_ste");
  return op.call(x, min_val, max_val);
}

at::Tensor tensor_clamp(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val) {
  static const auto op = find<const at::Tensor&, const at::Tensor&, const at::Tensor&>("ste::tensor_clamp");
  return op.call(x, min_val, max_val);
}

at::Tensor fake_quantize(
    const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point, int64_t quant_min,
    int64_t quant_max, const at::Scalar& grad_scale, c10::string_view inside, const std::optional<at::Tensor>& random) {
  static const auto op = find<
      const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::SymInt, c10::SymInt,
      const at::Scalar&, c10::string_view, const std::optional<at::Tensor>&>("ste::fake_quantize");
  return op.call(x, scale, zero_point, quant_min, quant_max, grad_scale, inside, random);
}

at::Tensor fake_quantize_float(
    const at::Tensor& x, const at::Tensor& scale, c10::string_view format, const at::Scalar& grad_scale, bool saturate,
    const std::optional<at::Tensor>& random) {
  static const auto op = find<
      const at::Tensor&, const at::Tensor&, c10::string_view, const at::Scalar&, bool,
      const std::optional<at::Tensor>&>("ste::fake_quantize_float");
  return op.call(x, scale, format, grad_scale, saturate, random);
}

at::Tensor fake_quantize_blocks(
    const at::Tensor& x, c10::string_view grid, std::optional<int64_t> block, c10::string_view rule, int64_t dim,
    const std::optional<at::Tensor>& tensor_scale, const std::optional<at::Tensor>& random) {
  static const auto op = find<
      const at::Tensor&, c10::string_view, c10::SymInt, c10::string_view, c10::SymInt, const std::optional<at::Tensor>&,
      const std::optional<at::Tensor>&>("ste::fake_quantize_blocks");
  return op.call(x, grid, block.value_or(-1), rule, dim, tensor_scale, random);
}

}  // namespace ste
