#pragma once

#include "kernels.h"

#include "../clamp/elements.h"
#include "../rounding/elements.h"

#include <limits>
#include <type_traits>
#include <utility>

namespace ste::element {
inline namespace CPU_CAPABILITY {

// A zero point of 0, for kernels that gain from knowing it. The scale of such a grid is positive and finite.
struct Zero {};

template <typename V>
C10_HOST_DEVICE inline V operator+(V v, Zero) {
  return v;
}

template <typename V>
C10_HOST_DEVICE inline V operator-(V v, Zero) {
  return v;
}

// A grid of integers: its scale, its zero point and its ends; and what a gradient's mask tests.
template <typename V, typename ZeroPoint = V, Inside inside = Inside::rounded>
struct Grid {
  V scale;
  ZeroPoint zero_point;
  V quant_min;
  V quant_max;
};

// The ends, in the dtype of the computation.
template <typename W, Inside inside = Inside::rounded>
struct EndsIn {
  static constexpr bool has_zero_point = true;

  explicit EndsIn(const Ends& ends)
      : quant_min(static_cast<W>(ends.quant_min)), quant_max(static_cast<W>(ends.quant_max)) {}

  template <typename V>
  C10_HOST_DEVICE Grid<V, V, inside> grid(const V& scale, const V& zero_point) const {
    return {scale, zero_point, V(quant_min), V(quant_max)};
  }

  W quant_min;
  W quant_max;
};

// Calls the function with the grid as vectors; without a zero point if that is 0, which saves its loops some work.
template <typename V, typename W, Inside inside, typename Function>
inline void with_vectors(const Grid<W, W, inside>& grid, const Function& function) {
  const V scale(grid.scale);
  const V quant_min(grid.quant_min);
  const V quant_max(grid.quant_max);
  if (grid.zero_point == 0 && grid.scale > 0 && grid.scale <= std::numeric_limits<W>::max()) {
    function(Grid<V, Zero, inside>{scale, {}, quant_min, quant_max});
  } else {
    function(Grid<V, V, inside>{scale, V(grid.zero_point), quant_min, quant_max});
  }
}

// `rounded` is x / scale, rounded.
template <typename V, typename ZeroPoint, Inside inside>
C10_HOST_DEVICE inline V fake_quantize_rounded(V rounded, const Grid<V, ZeroPoint, inside>& grid) {
  const V shifted = rounded + grid.zero_point;
  const V result = (clamp(shifted, grid.quant_min, grid.quant_max) - grid.zero_point) * grid.scale;
  if constexpr (std::is_same_v<ZeroPoint, Zero>) {
    return result + V(0);  // turns -0 into 0
  } else {
    return result;
  }
}

// `scaled` is x / scale.
template <typename V, typename ZeroPoint, Inside inside>
C10_HOST_DEVICE inline V fake_quantize_scaled(V scaled, const Grid<V, ZeroPoint, inside>& grid) {
  return fake_quantize_rounded(round_half_even(scaled), grid);
}

template <typename V, typename ZeroPoint, Inside inside>
C10_HOST_DEVICE inline V fake_quantize_at_random(V scaled, V random, const Grid<V, ZeroPoint, inside>& grid) {
  return fake_quantize_rounded(round_at_random(scaled, random), grid);
}

template <typename V, typename Grid>
C10_HOST_DEVICE inline V fake_quantize(V x, const Grid& grid) {
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

template <typename V, typename ZeroPoint, Inside inside>
C10_HOST_DEVICE C10_ALWAYS_INLINE FakeQuantizeGradient<V> fake_quantize_backward_scaled(
    V g, V scaled, const Grid<V, ZeroPoint, inside>& grid) {
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

template <typename V, typename Grid>
C10_HOST_DEVICE inline FakeQuantizeGradient<V> fake_quantize_backward(V g, V x, const Grid& grid) {
  return fake_quantize_backward_scaled(g, x / grid.scale, grid);
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::element
