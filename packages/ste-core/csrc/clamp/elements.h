#pragma once

#include "../memory/element.h"

namespace ste::element {
inline namespace CPU_CAPABILITY {

// A NaN of x is kept, and so is x beside a bound that equals it: a zero keeps its sign. A bound that is NaN gives NaN.
// (at::vec has one for vectors.)
template <typename T>
  requires(!Vector<T>)
C10_HOST_DEVICE inline T clamp(T x, T min_val, T max_val) {
  const T raised = x >= min_val || x != x ? x : min_val;
  return raised <= max_val || raised != raised ? raised : max_val;
}

template <typename V>
struct ClampGradient {
  V x;
  V min_val;
  V max_val;
};

// The gradient goes to the one argument that the result belongs to; to x at a bound, and to none where one is NaN.
template <typename V>
C10_HOST_DEVICE inline ClampGradient<V> clamp_backward(V g, V x, V min_val, V max_val) {
  const V zero(0);
  const auto is_max = (x > max_val) | (min_val > max_val);
  return {
      select((x >= min_val) & (x <= max_val), g, zero),
      select(is_max, zero, select(x < min_val, g, zero)),
      select(is_max, g, zero),
  };
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::element
