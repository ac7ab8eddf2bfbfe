// The numbers of a floating-point format, as torch operations.
#pragma once

#include "elements.h"
#include "kernels.h"

#include "../register/expression.h"

#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>
#include <c10/core/ScalarType.h>

#include <cmath>
#include <limits>

namespace ste {

// For tensors, whose bits are out of reach: by a comparison with each power. Fewer would do if each were of the result
// of the one before, but compilers write out all that comes before at each use, and take a minute.
inline Expression power_within(const Expression& x, const Expression& least, const Expression& limit) {
  auto power = at::full_like(x.tensor(), least.number());
  const double last = limit.number().toDouble();
  for (double larger = 2 * least.number().toDouble(); larger <= last; larger *= 2) {
    power = at::where(x.tensor().ge(larger), larger, power);
  }
  return Expression(power);
}

// Not at::copysign, which is not an operator of ONNX.
inline Expression with_sign_of(const Expression& size, const Expression& x) {
  const auto& to = size.tensor();
  const auto& from = x.tensor();
  return Expression(at::where(from.eq(0), from, at::where(from.lt(0), -to, to)));
}

inline element::FloatGrid<Expression> grid_of(const Expression& scale, const FloatEnds& ends, at::ScalarType dtype) {
  const int digits = dtype == at::kDouble ? std::numeric_limits<double>::digits : std::numeric_limits<float>::digits;
  return {
      scale,
      Expression(ends.least),
      Expression(std::ldexp(1.0, digits - 1 - ends.mantissa_bits)),
      Expression(std::ldexp(1.0, -ends.mantissa_bits)),
      Expression(ends.max),
      Expression(ends.limit),
      Expression(ends.overflow)};
}

}  // namespace ste
