#pragma once

#include "../memory/element.h"

namespace ste::element {
inline namespace CPU_CAPABILITY {

template <typename V>
C10_HOST_DEVICE inline V binary_sign(V x, V low) {
  return select(x >= V(0), V(1), low);
}

// For unsigned integers the comparison with 0 is false everywhere.
template <typename V>
C10_HOST_DEVICE inline V ternary_sign(V x) {
  const V zero(0);
  return select(x > zero, V(1), select(x < zero, V(-1), zero));
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::element
