#pragma once

#include "../memory/element.h"

namespace ste::element {
inline namespace CPU_CAPABILITY {

// Keeps a NaN of x, and an x that equals a bound, so that a zero keeps its sign. A NaN bound gives NaN. (at::vec has
// the clamp for vectors.)
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

// The gradient goes to the one argument that the result belongs to; at a bound to x, and where one of them is NaN to
// none.
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
