// What the ops that ATen has no single kernel for do to one element: written once, for numbers and for at::vec's
// vectors of them. Where a number has a bool, a vector has a mask.
#pragma once

#include "ends.h"

#include <c10/macros/Macros.h>

#include <cmath>
#include <type_traits>
#include <utility>

namespace ste::element {

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
C10_HOST_DEVICE inline V binary_sign(V x, V low) {
  return select(x >= V(0), V(1), low);
}

// For unsigned integers the comparison with 0 is false everywhere.
template <typename V>
C10_HOST_DEVICE inline V ternary_sign(V x) {
  const V zero(0);
  return select(x > zero, V(1), select(x < zero, V(-1), zero));
}

// The integer next to x, of two the even one.
template <typename T>
C10_HOST_DEVICE inline T round_half_even(T x) {
  return std::rint(x);
}

template <Vector V>
inline V round_half_even(V x) {
  return x.round();
}

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

// The zero point of a grid with none, for the kernels that gain by it. Its scale is positive and finite.
struct Zero {};

template <typename V>
C10_HOST_DEVICE inline V operator+(V v, Zero) {
  return v;
}

template <typename V>
C10_HOST_DEVICE inline V operator-(V v, Zero) {
  return v;
}

// A grid of integers: where it lies, and where it ends.
template <typename V, typename ZeroPoint = V>
struct Grid {
  V scale;
  ZeroPoint zero_point;
  V quant_min;
  V quant_max;
};

// `scaled` is x / scale.
template <typename V, typename ZeroPoint>
C10_HOST_DEVICE inline V fake_quantize_scaled(V scaled, const Grid<V, ZeroPoint>& grid) {
  const V shifted = round_half_even(scaled) + grid.zero_point;
  const V result = (clamp(shifted, grid.quant_min, grid.quant_max) - grid.zero_point) * grid.scale;
  if constexpr (std::is_same_v<ZeroPoint, Zero>) {
    return result + V(0);  // there is no -0; one operation together with the product
  } else {
    return result;
  }
}

template <typename V>
C10_HOST_DEVICE inline V fake_quantize(V x, const Grid<V>& grid) {
  return fake_quantize_scaled(x / grid.scale, grid);
}

template <typename V>
using Mask = decltype(std::declval<V>() == std::declval<V>());

template <typename V>
struct FakeQuantizeGradient {
  Mask<V> is_inside;
  V x;
  V scale;
  V zero_point;
};

template <Inside inside, typename V, typename ZeroPoint>
C10_HOST_DEVICE inline FakeQuantizeGradient<V> fake_quantize_backward_scaled(
    V g, V scaled, const Grid<V, ZeroPoint>& grid) {
  const V shifted = round_half_even(scaled) + grid.zero_point;
  const V clamped = clamp(shifted, grid.quant_min, grid.quant_max);
  const V steps = clamped - grid.zero_point;
  if constexpr (inside == Inside::rounded) {
    const Mask<V> is_inside = shifted == clamped;
    return {
        is_inside,
        keep(is_inside, g),
        g * (steps - keep(is_inside, scaled)),
        keep(shifted != clamped, V(0) - g * grid.scale),
    };
  } else {
    const V exact = scaled + grid.zero_point;
    const Mask<V> is_inside = (exact > grid.quant_min) & (exact < grid.quant_max);
    return {
        is_inside,
        keep(is_inside, g),
        g * (steps - keep(is_inside, scaled)),
        select(is_inside, V(0), V(0) - g * grid.scale),
    };
  }
}

template <Inside inside, typename V>
C10_HOST_DEVICE inline FakeQuantizeGradient<V> fake_quantize_backward(V g, V x, const Grid<V>& grid) {
  return fake_quantize_backward_scaled<inside>(g, x / grid.scale, grid);
}

}  // namespace ste::element
