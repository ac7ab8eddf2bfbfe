#pragma once

#include "../memory/element.h"

#include <cmath>

namespace ste::element {
inline namespace CPU_CAPABILITY {

// The integer nearest to x; ties go to the even one.
template <typename T>
C10_HOST_DEVICE inline T round_half_even(T x) {
  return std::rint(x);
}

template <Vector V>
inline V round_half_even(V x) {
  return x.round();
}

template <typename V>
C10_HOST_DEVICE inline V round_below(V x) {
  if constexpr (Vector<V>) {
    return x.floor();
  } else {
    return std::floor(x);
  }
}

// The integer below x, or the next one where the random number is less than the distance of x from it.
template <typename V>
C10_HOST_DEVICE inline V round_at_random(V x, V random) {
  const V below = round_below(x);
  return select(x - below > random, below + V(1), below);  // of tensors: with the strides of x
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::element
