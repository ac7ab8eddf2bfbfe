// What an op does to one element is written once, for numbers and for at::vec's vectors of them. Where a number has a
// bool, a vector has a mask. As in at::vec, each instruction set has its own copy: hence the inline namespace, whose
// name comes from the build.
#pragma once

#include <c10/macros/Macros.h>

#include <cmath>

namespace ste::element {
inline namespace CPU_CAPABILITY {

template <typename V>
concept Vector = requires { typename V::value_type; };

template <typename T>
C10_HOST_DEVICE inline T select(bool mask, T yes, T no) {
  return mask ? yes : no;
}

template <Vector V>
inline V select(const V& mask, const V& yes, const V& no) {
  return V::blendv(no, yes, mask);
}

// The value, or 0.
template <typename T>
C10_HOST_DEVICE inline T keep(bool mask, T value) {
  return mask ? value : T(0);
}

template <Vector V>
inline V keep(const V& mask, const V& value) {
  return value & mask;
}

template <typename V>
C10_HOST_DEVICE inline V constant(double value) {
  if constexpr (Vector<V>) {
    return V(static_cast<typename V::value_type>(value));
  } else {
    return static_cast<V>(value);
  }
}

// Gives a NaN a payload that every dtype can represent.
template <typename V>
C10_HOST_DEVICE inline V with_plain_nan(V number) {
  return select(number == number, number, constant<V>(NAN));
}

template <typename V>
C10_HOST_DEVICE inline V absolute(const V& x) {
  if constexpr (Vector<V>) {
    return x.abs();
  } else {
    return std::abs(x);
  }
}

// x, or the bound if x is beyond it. NaN stays.
template <typename V>
C10_HOST_DEVICE inline V at_most(V x, V bound) {
  if constexpr (Vector<V>) {
    return clamp_max(x, bound);
  } else {
    return x > bound ? bound : x;
  }
}

template <typename V>
C10_HOST_DEVICE inline V at_least(V x, V bound) {
  if constexpr (Vector<V>) {
    return clamp_min(x, bound);
  } else {
    return x < bound ? bound : x;
  }
}

template <typename V>
C10_HOST_DEVICE inline V exponential(const V& x) {
  if constexpr (Vector<V>) {
    return x.exp();
  } else {
    return std::exp(x);
  }
}

template <typename V>
C10_HOST_DEVICE inline V logarithm(const V& x) {
  if constexpr (Vector<V>) {
    return x.log();
  } else {
    return std::log(x);
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::element
