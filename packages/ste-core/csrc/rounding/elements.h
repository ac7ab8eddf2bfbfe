#pragma once

#include "../memory/element.h"

#include <cmath>

namespace ste::element {
inline namespace CPU_CAPABILITY {

// The integer next to x, of two the even one.
template <typename T>
C10_HOST_DEVICE inline T round_half_even(T x) {
  return std::rint(x);
}

template <Vector V>
inline V round_half_even(V x) {
  return x.round();
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::element
