#pragma once

#include "kernels.h"

#include "../fake_quantize/elements.h"

#include <c10/util/bit_cast.h>

#if defined(CPU_CAPABILITY_AVX512)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace ste::element {
inline namespace CPU_CAPABILITY {

// Values beyond max become max, for kernels that gain from knowing it.
struct Saturates {};

// The numbers of a floating-point format, times a scale.
template <typename V, typename Overflow = V>
struct FloatGrid {
  V scale;
  V least;
  V shift;  // times a power of two, leaves no bits below the format's when added to a number below twice that power
  V step;   // times a power of two, the distance between the numbers from that power to twice it
  V max;
  V limit;
  Overflow overflow;
};

// The format, in the dtype of the computation.
template <typename W>
struct FloatEndsIn {
  static constexpr bool has_zero_point = false;

  explicit FloatEndsIn(const FloatEnds& ends)
      : least(static_cast<W>(ends.least)),
        shift(std::ldexp(W(1), std::numeric_limits<W>::digits - 1 - ends.mantissa_bits)),
        step(std::ldexp(W(1), -ends.mantissa_bits)),
        max(static_cast<W>(ends.max)),
        limit(static_cast<W>(ends.limit)),
        overflow(static_cast<W>(ends.overflow)) {}

  template <typename V>
  C10_HOST_DEVICE FloatGrid<V> grid(const V& scale, const V& /*zero_point*/) const {
    return {scale, V(least), V(shift), V(step), V(max), V(limit), V(overflow)};
  }

  W least;
  W shift;
  W step;
  W max;
  W limit;
  W overflow;
};

template <typename V, typename W, typename Function>
inline void with_vectors(const FloatGrid<W>& grid, const Function& function) {
  const auto with_overflow = [&]<typename Overflow>(const Overflow& overflow) {
    function(
        FloatGrid<V, Overflow>{
            V(grid.scale), V(grid.least), V(grid.shift), V(grid.step), V(grid.max), V(grid.limit), overflow});
  };
  if (grid.overflow == grid.max) {
    with_overflow(Saturates());
  } else {
    with_overflow(V(grid.overflow));
  }
}

// The largest power of two that is at most x, a number from 0 to the limit; `least` if x is smaller. (The bits of an
// infinity are those of the exponent.)
template <typename V>
C10_HOST_DEVICE C10_ALWAYS_INLINE V power_within(V x, V least, V /*limit*/) {
  const V infinity = constant<V>(std::numeric_limits<double>::infinity());
  V power;
  if constexpr (Vector<V>) {
    power = x & infinity;
  } else {
    using Bits = std::conditional_t<sizeof(V) == 8, uint64_t, uint32_t>;
    power = c10::bit_cast<V>(c10::bit_cast<Bits>(x) & c10::bit_cast<Bits>(infinity));
  }
  return at_least(power, least);
}

template <typename V>
C10_HOST_DEVICE C10_ALWAYS_INLINE V with_sign_of(V size, V x) {
  if constexpr (Vector<V>) {
#if defined(CPU_CAPABILITY_AVX512)
    if constexpr (requires { _mm512_castps_si512(x); }) {
      constexpr int size_or_x_and_sign = 0xF8;
      return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
          _mm512_castps_si512(size), _mm512_castps_si512(x), _mm512_castps_si512(constant<V>(-0.0)),
          size_or_x_and_sign));
    }
#endif
    return size | (x & constant<V>(-0.0));
  } else {
    return std::copysign(size, x);
  }
}

// The number of the format that is nearest to a magnitude, as if there were no largest exponent. Ties go to the number
// whose last bit is 0.
template <typename V, typename Overflow>
C10_HOST_DEVICE C10_ALWAYS_INLINE V round_magnitude(V size, const FloatGrid<V, Overflow>& grid) {
  const V raised = power_within(size, grid.least, grid.limit) * grid.shift;
  return (size + raised) - raised;
}

// The same for the magnitude of x, clamped to a bound.
template <typename V, typename Overflow>
C10_HOST_DEVICE C10_ALWAYS_INLINE V round_to_format(V x, V bound, const FloatGrid<V, Overflow>& grid) {
  return round_magnitude(at_most(absolute(x), bound), grid);
}

// The same, but stochastic: one of the two numbers around x.
template <typename V, typename Overflow>
C10_HOST_DEVICE C10_ALWAYS_INLINE V round_to_format_at_random(V x, V random, const FloatGrid<V, Overflow>& grid) {
  const V held = at_most(absolute(x), grid.limit);
  const V step = power_within(held, grid.least, grid.limit) * grid.step;
  return absolute(round_at_random(with_sign_of(held, x) / step, random)) * step;
}

// The number of the format, from x's rounded magnitude.
template <typename V, typename Overflow>
C10_HOST_DEVICE C10_ALWAYS_INLINE V within_format(V size, V x, const FloatGrid<V, Overflow>& grid) {
  if constexpr (std::is_same_v<Overflow, Saturates>) {
    return with_sign_of(at_most(size, grid.max), x);
  } else {
    return with_sign_of(select(size > grid.max, grid.overflow, size), x);
  }
}

// `scaled` is x / scale.
template <typename V, typename Overflow>
C10_HOST_DEVICE C10_ALWAYS_INLINE V fake_quantize_scaled(V scaled, const FloatGrid<V, Overflow>& grid) {
  if constexpr (std::is_same_v<Overflow, Saturates>) {
    return with_sign_of(round_to_format(scaled, grid.max, grid), scaled) * grid.scale;
  } else {
    return within_format(round_to_format(scaled, grid.limit, grid), scaled, grid) * grid.scale;
  }
}

template <typename V, typename Overflow>
C10_HOST_DEVICE C10_ALWAYS_INLINE V fake_quantize_at_random(V scaled, V random, const FloatGrid<V, Overflow>& grid) {
  return within_format(round_to_format_at_random(scaled, random, grid), scaled, grid) * grid.scale;
}

template <typename V, typename Overflow>
C10_HOST_DEVICE C10_ALWAYS_INLINE FakeQuantizeGradient<V> fake_quantize_backward_scaled(
    V g, V scaled, const FloatGrid<V, Overflow>& grid) {
  const V size = round_to_format(scaled, grid.limit, grid);
  const V steps = within_format(size, scaled, grid);
  const Mask<V> is_inside = size <= grid.max;
  return {is_inside, keep(is_inside, g), g * (steps - keep(is_inside, scaled)), V(0)};
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::element
