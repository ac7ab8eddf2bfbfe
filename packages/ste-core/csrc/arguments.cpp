#include "arguments.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/ceil.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/where.h>
#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

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
  switch (dtype) {
    case at::kDouble:
    case at::kFloat:
    case at::kHalf:
    case at::kBFloat16:
    case at::kByte:
    case at::kChar:
    case at::kShort:
    case at::kInt:
    case at::kLong:
      return true;
    default:
      return false;
  }
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

// ATen's own test is of symbols, and takes as long as the rest of the checks together.
bool broadcasts(const at::Tensor& bound, const at::Tensor& x) {
  if (bound.unsafeGetTensorImpl()->has_symbolic_sizes_strides() ||
      x.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) {
    return at::is_expandable_to(bound.sym_sizes(), x.sym_sizes());
  }
  const auto of_bound = bound.sizes();
  const auto of_x = x.sizes();
  return of_bound.size() <= of_x.size() &&
         std::equal(of_bound.rbegin(), of_bound.rend(), of_x.rbegin(), [](int64_t size, int64_t wanted) {
           return size == 1 || size == wanted;
         });
}

// On x's device, and of a shape that broadcasts to x's, never beyond it.
void check_fits(const char* op, const char* name, const at::Tensor& parameter, const at::Tensor& x) {
  TORCH_CHECK(
      parameter.device() == x.device(), op, ": ", name, " is on ", parameter.device(), ", but x is on ", x.device());
  TORCH_CHECK(
      broadcasts(parameter, x), op, ": ", name, " of shape ", parameter.sym_sizes(),
      " does not broadcast to x's shape ", x.sym_sizes());
}

void check_parameter(
    const char* op, const char* name, const at::Tensor& parameter, const at::Tensor& x, bool may_be_integer) {
  const auto dtype = parameter.scalar_type();
  const bool is_integer = is_supported(dtype) && !at::isFloatingType(dtype);
  TORCH_CHECK_TYPE(
      dtype == x.scalar_type() || dtype == at::kFloat || (may_be_integer && is_integer), op, ": ", name, " has dtype ",
      dtype_name(dtype), ", but for x of ", dtype_name(x.scalar_type()), " it is ", dtype_name(x.scalar_type()),
      x.scalar_type() == at::kFloat ? "" : " or float32", may_be_integer ? " or an integer dtype" : "");
  check_fits(op, name, parameter, x);
}

}  // namespace

void check_dtype(const char* op, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(
      is_supported(tensor.scalar_type()), op, ": ", name, " has dtype ", dtype_name(tensor.scalar_type()),
      "; supported are float64, float32, float16, bfloat16, int64, int32, int16, int8 and uint8");
}

void check_bound(const char* op, const char* name, const at::Tensor& bound, const at::Tensor& x) {
  check_dtype(op, name, bound);
  check_fits(op, name, bound, x);
}

void check_quantization(
    const char* op, const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
    const c10::SymInt& quant_min, const c10::SymInt& quant_max) {
  const auto dtype = x.scalar_type();
  TORCH_CHECK_TYPE(
      is_supported(dtype) && at::isFloatingType(dtype), op, ": x has dtype ", dtype_name(dtype),
      "; supported are float64, float32, float16 and bfloat16");
  check_parameter(op, "scale", scale, x, /*may_be_integer=*/false);
  if (zero_point) {
    check_parameter(op, "zero_point", *zero_point, x, /*may_be_integer=*/true);
  }
  TORCH_CHECK_VALUE(quant_min < quant_max, op, ": quant_min=", quant_min, " is not less than quant_max=", quant_max);
}

c10::Scalar bound_in_dtype(const char* op, const char* name, const c10::Scalar& bound, const at::Tensor& x) {
  if (bound.isSymbolic()) {
    return bound;  // a compiler's symbol: to look at its value would specialize the graph to it
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

void check_value(const char* op, const char* name, double value, const at::Tensor& x) {
  const auto dtype = x.scalar_type();
  if (at::isFloatingType(dtype)) {
    return;
  }
  const Range range = integer_range(dtype);
  TORCH_CHECK_VALUE(
      std::trunc(value) == value && saturated(value) >= range.min && saturated(value) <= range.max, op, ": ", name, "=",
      value, " has no ", dtype_name(dtype), " value");
}

}  // namespace ste
