// What the scale of a block is computed from.
//
// Compiled like vectors.h.
#pragma once

#include "elements.h"

#include "../memory/opmath.h"

#include <type_traits>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

// The larger of two numbers that are not negative. Compared by its bits, NaN is the largest.
inline Vectorized<float> larger(const Vectorized<float>& a, const Vectorized<float>& b) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
#else
  return at::vec::maximum(a, b);
#endif
}

inline Vectorized<double> larger(const Vectorized<double>& a, const Vectorized<double>& b) {
  return at::vec::maximum(a, b);
}

// What a scale is computed from, for vectors of numbers: the largest magnitude, or both ends.
template <typename W>
struct Largest {
  using V = Vectorized<W>;

  void add(const V& x) { high = larger(high, x.abs()); }

  // With more numbers. (In variables, because GCC keeps in memory what has an address.)
  Largest with(const W* x, int64_t count) const {
    V of_all = high;
    for_vectors<W>(0, count, [&](int64_t i, auto size) { of_all = larger(of_all, load_vector(x + i, size).abs()); });
    return {of_all};
  }

  // From pairs of lanes: those of `a`, then those of `b`.
  static Largest paired(const Largest& a, const Largest& b) {
    const auto [even, odd] = at::vec::deinterleave2(a.high, b.high);
    return {larger(even, odd)};
  }

  C10_ALWAYS_INLINE element::BlockScale<V> scale(const element::BlockScales<W>& scales, const V& tensor_scale) const {
    return scales.of_largest(high, tensor_scale);
  }

  V high = V(0);
};

template <typename W>
struct BothEnds {
  using V = Vectorized<W>;

  void add(const V& x) {
    low = at::vec::minimum(low, x);
    high = at::vec::maximum(high, x);
  }

  BothEnds with(const W* x, int64_t count) const {
    V least = low;
    V most = high;
    for_vectors<W>(0, count, [&](int64_t i, auto size) {
      const V some = load_vector(x + i, size);
      least = at::vec::minimum(least, some);
      most = at::vec::maximum(most, some);
    });
    return {least, most};
  }

  static BothEnds paired(const BothEnds& a, const BothEnds& b) {
    const auto [low_even, low_odd] = at::vec::deinterleave2(a.low, b.low);
    const auto [high_even, high_odd] = at::vec::deinterleave2(a.high, b.high);
    return {at::vec::minimum(low_even, low_odd), at::vec::maximum(high_even, high_odd)};
  }

  element::BlockScale<V> scale(const element::BlockScales<W>& scales, const V& /*tensor_scale*/) const {
    return scales.of_ends(low, high);
  }

  V low = V(0);
  V high = V(0);
};

template <typename Kind, typename W>
using Statistic = std::conditional_t<Kind::has_zero_point, BothEnds<W>, Largest<W>>;

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu
