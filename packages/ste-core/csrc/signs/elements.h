#pragma once

#include "../memory/element.h"

namespace ste::element {
inline namespace CPU_CAPABILITY {

template <typename V>
C10_HOST_DEVICE inline V binary_sign(V x, V low) {
  return select(x >= V(0), V(1), low);
}

// For unsigned integers, the comparison with 0 is always false.
template <typename V>
C10_HOST_DEVICE inline V ternary_sign(V x) {
  const V zero(0);
  return select(x > zero, V(1), select(x < zero, V(-1), zero));
}

template <typename V>
C10_HOST_DEVICE inline V ternary_sign(V x, V threshold) {
  return select(x > threshold, V(1), select(x < -threshold, V(-1), V(0)));
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::element
