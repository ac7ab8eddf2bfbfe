// The numbers of a block whose scale is known.
//
// Compiled like vectors.h.
#pragma once

#include "elements.h"

#include "../memory/opmath.h"

#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

// Computes a vector of the result, from x or from x and g.
template <typename W, typename Kind, bool is_backward>
class Quantized {
 public:
  using V = Vectorized<W>;

  Quantized(const Kind& kind, const V& scale, const V& divisor, const V& zero_point)
      : grid_(kind.grid(scale, zero_point)), divisor_(divisor) {}

  V operator()(const V& x, const V& g) const {
    const V scaled = Kind::scaled(x, divisor_);
    if constexpr (is_backward) {
      return element::fake_quantize_backward_scaled(g, scaled, grid_).x;
    } else {
      return element::fake_quantize_scaled(scaled, grid_);
    }
  }

  template <typename T>
  static void store(const Parts<T>& parts, T* to) {
    store_together<T>(parts, to);
  }

  template <typename Count>
  void operator()(const W* x, const W* g, W* y, Count count) const {
    cpu::store<W>((*this)(load_vector(x, count), load_vector(g, count)), reinterpret_cast<char*>(y), 0, count);
  }

 private:
  decltype(std::declval<Kind>().grid(std::declval<V>(), std::declval<V>())) grid_;
  V divisor_;
};

// The smaller magnitude of two numbers that are not NaN.
template <typename W>
Vectorized<W> smaller_magnitude(const Vectorized<W>& a, const Vectorized<W>& b) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (std::is_same_v<W, float>) {
    constexpr int without_sign = 0b1010;
    return _mm512_range_ps(a, b, without_sign);
  }
#endif
  return at::vec::minimum(a.abs(), b);
}

// The forward for a scale that is a power of two. The grid's numbers times such a scale are those of another format, so
// x is rounded without a division.
template <typename W>
class RoundedInPlace {
 public:
  using V = Vectorized<W>;
  using Grid = element::FloatGrid<V, element::Saturates>;

  RoundedInPlace(const Grid& grid) : grid_(grid) {}

  V operator()(const V& x, const V& /*g*/) const {
    return element::with_sign_of(element::round_magnitude(smaller_magnitude(x, grid_.max), grid_), x);
  }

  // A bfloat16 holds the results exactly.
  template <typename T>
  static void store(const Parts<T>& parts, T* to) {
    if constexpr (std::is_same_v<T, c10::BFloat16>) {
      halves(bits_of(parts[0]) >> Bits(16), bits_of(parts[1])).store(to);
    } else {
      store_parts(parts, to);
    }
  }

 private:
  Grid grid_;
};

// The formats that scales make, for those whose numbers are normal and have no more bits than a bfloat16, and whose
// sums in rounding are finite.
template <typename W>
class ScaledFormats {
 public:
  using V = Vectorized<W>;

  explicit ScaledFormats(const FloatEnds& ends)
      : ends_(ends),
        is_narrow_(ends.mantissa_bits <= 7),
        least_scale_(std::numeric_limits<W>::min() / ends_.least),
        most_scale_(std::ldexp(W(1), std::numeric_limits<W>::max_exponent - 1) / ends_.limit / ends_.shift) {}

  // Where a scale is 0, its whole block is too.
  bool has_all(const V& scales) const {
    const V is_within = (scales >= V(least_scale_)) & (scales <= V(most_scale_));
    return is_narrow_ && (is_within | (scales == V(0))).zero_mask() == 0;
  }

  RoundedInPlace<W> at(W scale) const {
    return {{V(1), V(ends_.least * scale), V(ends_.shift), V(0), V(ends_.max * scale), V(0), {}}};
  }

 private:
  element::FloatEndsIn<W> ends_;
  bool is_narrow_;
  W least_scale_;
  W most_scale_;
};

// y = function(x, g), for whole vectors.
template <typename T, typename Function>
void map_vectors(const T* x, const T* g, T* y, int64_t size, const Function& function) {
  for (int64_t i = 0; i < size; i += Vectorized<T>::size()) {
    auto parts = load_apart(x + i);
    const auto gradients = load_apart(g + i);
    for (size_t part = 0; part < parts.size(); ++part) {
      parts[part] = function(parts[part], gradients[part]);
    }
    Function::template store<T>(parts, y + i);
  }
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu
