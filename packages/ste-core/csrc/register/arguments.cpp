#include "arguments.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/ceil.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/where.h>
#include <c10/core/ScalarType.h>
#include <c10/core/SymBool.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace ste {
namespace {

struct Range {
  int64_t min;
  int64_t max;
};

template <typename T>
constexpr Range range_of() {
  return {std::numeric_limits<T>::min(), std::numeric_limits<T>::max()};
}

Range integer_range(at::ScalarType dtype) {
  switch (dtype) {
    case at::kByte:
      return range_of<uint8_t>();
    case at::kChar:
      return range_of<int8_t>();
    case at::kShort:
      return range_of<int16_t>();
    case at::kInt:
      return range_of<int32_t>();
    default:
      return range_of<int64_t>();
  }
}

// 2^63: the first double past int64.
constexpr double kInt64End = 9223372036854775808.0;

bool is_supported(at::ScalarType dtype) {
  return is_floating(dtype) || dtype == at::kLong || dtype == at::kInt || dtype == at::kShort || dtype == at::kChar ||
         dtype == at::kByte;
}

auto dtype_name(at::ScalarType dtype) {
  return c10::getDtypeNames(dtype).first;
}

double rounded_to(at::ScalarType dtype, double value) {
  switch (dtype) {
    case at::kFloat:
      return static_cast<float>(value);
    case at::kHalf:
      return static_cast<float>(c10::Half(static_cast<float>(value)));
    case at::kBFloat16:
      return static_cast<float>(c10::BFloat16(static_cast<float>(value)));
    default:
      return value;
  }
}

int64_t saturated(double value) {
  if (value >= kInt64End) {
    return std::numeric_limits<int64_t>::max();
  }
  if (value < -kInt64End) {
    return std::numeric_limits<int64_t>::min();
  }
  return static_cast<int64_t>(value);
}

bool has_symbolic_shape(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

bool broadcasts(const at::Tensor& bound, const at::Tensor& x) {
  if (bound.dim() > x.dim()) {
    const auto sizes = bound.sym_sizes();
    return std::all_of(sizes.begin(), sizes.end(), [](const c10::SymInt& size) { return size == 1; });
  }
  if (has_symbolic_shape(bound) || has_symbolic_shape(x)) {
    return at::is_expandable_to(bound.sym_sizes(), x.sym_sizes());
  }
  return is_expandable(bound, x);
}

// The shape that a one-dimensional parameter needs, if it was meant for another dimension of x than the last.
std::string hint(const char* name, const at::Tensor& parameter, const at::Tensor& x) {
  if (parameter.dim() != 1 || has_symbolic_shape(parameter) || has_symbolic_shape(x)) {
    return "";
  }
  const auto sizes = x.sizes();
  const auto dim = std::find(sizes.begin(), sizes.end(), parameter.size(0)) - sizes.begin();
  if (dim == x.dim()) {
    return "";
  }
  std::vector<int64_t> shape(sizes.size() - static_cast<size_t>(dim), 1);
  shape[0] = parameter.size(0);
  return c10::str("; for one ", name, " per index of dimension ", dim, ", give it shape ", at::IntArrayRef(shape));
}

void check_fits(const char* op, const char* name, const at::Tensor& parameter, const at::Tensor& x) {
  TORCH_CHECK(
      parameter.device() == x.device() || (parameter.dim() == 0 && parameter.is_cpu()), op, ": ", name, " is on ",
      parameter.device(), ", but x is on ", x.device());
  TORCH_CHECK(
      broadcasts(parameter, x), op, ": ", name, " of shape ", parameter.sym_sizes(),
      " does not broadcast to x's shape ", x.sym_sizes(), hint(name, parameter, x));
}

// The two are on the same device and have the same shape.
void check_lies_as(
    const char* op, const char* name, const at::Tensor& tensor, const char* other_name, const at::Tensor& other) {
  TORCH_CHECK(
      tensor.device() == other.device(), op, ": ", name, " is on ", tensor.device(), ", but ", other_name, " is on ",
      other.device());
  TORCH_CHECK(
      tensor.sym_sizes() == other.sym_sizes(), op, ": ", name, " has shape ", tensor.sym_sizes(), ", but ", other_name,
      " has shape ", other.sym_sizes());
}

void check_parameter_dtype(
    const char* op, const char* name, const at::Tensor& parameter, const at::Tensor& x, bool may_be_integer) {
  const auto dtype = parameter.scalar_type();
  const bool is_integer = is_supported(dtype) && !is_floating(dtype);
  TORCH_CHECK_TYPE(
      dtype == x.scalar_type() || dtype == at::kFloat || (may_be_integer && is_integer), op, ": ", name, " has dtype ",
      dtype_name(dtype), ", but for x of ", dtype_name(x.scalar_type()), " it must be ", dtype_name(x.scalar_type()),
      x.scalar_type() == at::kFloat ? "" : " or float32", may_be_integer ? " or an integer dtype" : "");
}

}  // namespace

void check_dtype(const char* op, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(
      is_supported(tensor.scalar_type()), op, ": ", name, " has dtype ", dtype_name(tensor.scalar_type()),
      "; supported are float64, float32, float16, bfloat16, int64, int32, int16, int8 and uint8");
}

void check_parameter(
    const char* op, const char* name, const at::Tensor& parameter, const at::Tensor& x, bool may_be_integer) {
  check_parameter_dtype(op, name, parameter, x, may_be_integer);
  check_fits(op, name, parameter, x);
}

void check_beside(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& x) {
  check_parameter_dtype(op, name, tensor, x, /*may_be_integer=*/false);
  check_lies_as(op, name, tensor, "x", x);
}

void check_is_floating(const char* op, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(
      is_floating(tensor.scalar_type()), op, ": ", name, " has dtype ", dtype_name(tensor.scalar_type()),
      "; supported are float64, float32, float16 and bfloat16");
}

void check_bound(const char* op, const char* name, const at::Tensor& bound, const at::Tensor& x) {
  check_dtype(op, name, bound);
  check_fits(op, name, bound, x);
}

void check_hard_and_soft(const char* op, const at::Tensor& hard, const at::Tensor& soft) {
  const auto dtype = hard.scalar_type();
  TORCH_CHECK_TYPE(
      is_supported(dtype) || dtype == at::kBool, op, ": hard has dtype ", dtype_name(dtype),
      "; supported are float64, float32, float16, bfloat16, int64, int32, int16, int8, uint8 and bool");
  check_is_floating(op, "soft", soft);
  check_lies_as(op, "hard", hard, "soft", soft);
}

void check_quantization(
    const char* op, const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
    const c10::SymInt& quant_min, const c10::SymInt& quant_max) {
  check_is_floating(op, "x", x);
  check_parameter(op, "scale", scale, x, /*may_be_integer=*/false);
  if (zero_point) {
    check_parameter(op, "zero_point", *zero_point, x, /*may_be_integer=*/true);
  }
  const auto low = quant_min.maybe_as_int();
  const auto high = quant_max.maybe_as_int();
  if (!low || !high) {
    // An end whose value is not known yet is checked when the graph runs.
    TORCH_SYM_CHECK(
        quant_min.sym_lt(quant_max), op, ": quant_min=", quant_min, " is not less than quant_max=", quant_max);
    return;
  }
  TORCH_CHECK_VALUE(*low < *high, op, ": quant_min=", *low, " is not less than quant_max=", *high);
  const auto computed = computed_in(x);
  TORCH_CHECK_VALUE(
      end_in_dtype(Side::min, *low, computed) <= end_in_dtype(Side::max, *high, computed), op, ": no ",
      dtype_name(computed), " lies between quant_min=", *low, " and quant_max=", *high);
}

at::Tensor beside(const at::Tensor& parameter, const at::Tensor& x) {
  const auto with_rank = parameter.dim() <= x.dim() ? parameter : parameter.reshape({});
  return with_rank.to(with_rank.options().device(x.device()));
}

double end_in_dtype(Side side, int64_t end, at::ScalarType dtype) {
  const int bits = dtype == at::kDouble ? std::numeric_limits<double>::digits : std::numeric_limits<float>::digits;
  const auto magnitude = end < 0 ? 0 - static_cast<uint64_t>(end) : static_cast<uint64_t>(end);
  const int surplus = std::max(0, static_cast<int>(std::bit_width(magnitude)) - bits);
  const int64_t below = (end >> surplus) << surplus;
  const auto result = static_cast<double>(below);
  return side == Side::max || below == end ? result : result + std::ldexp(1.0, surplus);
}

c10::Scalar bound_in_dtype(const char* op, const char* name, const c10::Scalar& bound, const at::Tensor& x) {
  if (bound.isSymbolic()) {
    return bound;  // a compiler's symbol: looking at its value would specialize the graph to it
  }
  const auto dtype = x.scalar_type();
  if (at::isFloatingType(dtype)) {
    // Rounded here because ATen refuses what the dtype cannot hold: torch.clamp(half, -1e6, 1e6) raises
    // "value cannot be converted to type at::Half without overflow".
    return rounded_to(dtype, bound.toDouble());
  }
  if (bound.isFloatingPoint()) {
    const double value = bound.toDouble();
    TORCH_CHECK_VALUE(
        std::isinf(value) || std::trunc(value) == value, op, ": ", name, "=", value, " is not an integer, but x is ",
        dtype_name(dtype));
  }
  const int64_t value = bound.isFloatingPoint() ? saturated(bound.toDouble()) : bound.toLong();
  const Range range = integer_range(dtype);
  return std::min(std::max(value, range.min), range.max);
}

MaybeOwnedTensor bound_in_dtype(Side side, const at::Tensor& bound, at::ScalarType dtype) {
  if (bound.scalar_type() == dtype) {
    return MaybeOwnedTensor::borrowed(bound);
  }
  if (at::isFloatingType(dtype)) {
    return MaybeOwnedTensor::owned(bound.to(dtype));
  }
  at::Tensor integer = bound;
  if (at::isFloatingType(bound.scalar_type())) {
    const auto wide = bound.to(at::kDouble);
    const auto whole = side == Side::min ? at::ceil(wide) : at::floor(wide);
    // The largest double below 2^63, then the end itself: a cast from 2^63 would be undefined.
    const auto cast = at::clamp(whole, -kInt64End, std::nextafter(kInt64End, 0.0)).to(at::kLong);
    integer = at::where(whole.ge(kInt64End), std::numeric_limits<int64_t>::max(), cast);
  }
  const Range range = integer_range(dtype);
  return MaybeOwnedTensor::owned(at::clamp(integer.to(at::kLong), range.min, range.max).to(dtype));
}

c10::Scalar value_in_dtype(const char* op, const char* name, const c10::Scalar& value, const at::Tensor& x) {
  const auto dtype = x.scalar_type();
  if (value.isSymbolic() || at::isFloatingType(dtype)) {
    return bound_in_dtype(op, name, value, x);
  }
  const Range range = integer_range(dtype);
  // A double past int64 has no integer to compare with: the cast would be undefined.
  const double real = value.toDouble();
  const bool is_whole =
      !value.isFloatingPoint() || (std::trunc(real) == real && real >= -kInt64End && real < kInt64End);
  const int64_t integer = !value.isFloatingPoint() ? value.toLong() : is_whole ? static_cast<int64_t>(real) : 0;
  TORCH_CHECK_VALUE(
      is_whole && integer >= range.min && integer <= range.max, op, ": ", name, "=", value,
      " cannot be represented in ", dtype_name(dtype));
  return integer;
}

}  // namespace ste
