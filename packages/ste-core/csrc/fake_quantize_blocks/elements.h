#pragma once

#include "kernels.h"

#include "../fake_quantize/elements.h"
#include "../fake_quantize_float/elements.h"

#include <cmath>
#include <limits>

namespace ste::element {
inline namespace CPU_CAPABILITY {

C10_HOST_DEVICE constexpr bool is_power_of_two(BlockRule rule) {
  return rule == BlockRule::floor || rule == BlockRule::ceil || rule == BlockRule::even || rule == BlockRule::rceil;
}

// The divisor is infinite where the scale is 0, so that the block's numbers become 0.
template <typename V>
struct BlockScale {
  V scale;
  V divisor;
  V zero_point;
};

// The scales of a rule, in the dtype of the computation.
template <typename W>
class BlockScales {
 public:
  C10_ALWAYS_INLINE explicit BlockScales(const BlockSettings& settings)
      : rule_(settings.rule),
        max_(static_cast<W>(settings.ends.max)),
        limit_(static_cast<W>(settings.ends.limit)),
        raised_from_(raised_from(settings)),
        unit_(settings.rule == BlockRule::rceil ? W(1) : static_cast<W>(2 / settings.ends.limit)) {}

  // From the largest magnitudes.
  template <typename V>
  C10_HOST_DEVICE C10_ALWAYS_INLINE BlockScale<V> of_largest(V largest, V tensor_scale) const {
    const V zero(0);
    V scale = largest / V(max_);
    if (rule_ == BlockRule::e4m3fn) {
      const FloatGrid<V, Saturates> e4m3fn{
          tensor_scale, constant<V>(0x1p-6), V(kShift), constant<V>(0x1p-3), V(448), V(512), {}};
      scale = select(scale == zero, zero, fake_quantize_scaled(scale / tensor_scale, e4m3fn));
    } else if (is_power_of_two(rule_)) {
      scale = power_of_two(rule_ == BlockRule::rceil ? scale : largest);
    }
    scale = select(largest == zero, zero, select(largest == largest, scale, constant<V>(NAN)));
    return {scale, divisor_of(scale), zero};
  }

  // From the smallest numbers, which are at most 0, and the largest, which are at least 0.
  template <typename V>
  C10_HOST_DEVICE C10_ALWAYS_INLINE BlockScale<V> of_ends(V low, V high) const {
    const V scale = (high - low) / V(2 * limit_ - 1);
    const V divisor = divisor_of(scale);
    const V zero_point = round_half_even((V(0) - low) / divisor) - V(limit_);
    return {scale, divisor, clamp(zero_point, V(-limit_), V(limit_ - 1))};
  }

 private:
  static constexpr W kShift = sizeof(W) == 8 ? W(0x1p49) : W(0x1p20);  // for a mantissa of three bits

  C10_ALWAYS_INLINE static W raised_from(const BlockSettings& settings) {
    switch (settings.rule) {
      case BlockRule::ceil:
      case BlockRule::rceil:
        return 1 + std::numeric_limits<W>::epsilon();
      case BlockRule::even:
        return static_cast<W>(2 - std::ldexp(0.5, -settings.ends.mantissa_bits));
      default:
        return 2;
    }
  }

  template <typename V>
  C10_HOST_DEVICE C10_ALWAYS_INLINE V divisor_of(V scale) const {
    return select(scale == V(0), constant<V>(std::numeric_limits<double>::infinity()), scale);
  }

  // The largest power of two within a number, or twice that from some fraction on, in units of the grid. An infinity
  // counts as twice the largest power.
  template <typename V>
  C10_HOST_DEVICE C10_ALWAYS_INLINE V power_of_two(V number) const {
    constexpr double largest = sizeof(W) == 8 ? 0x1p1023 : 0x1p127;
    const auto is_small = number < constant<V>(0x1p-100);  // and may be subnormal
    const V normal = number * select(is_small, constant<V>(0x1p100), V(1));
    const V power = at_most(power_within(normal, constant<V>(0x1p-126), normal), constant<V>(largest));
    const V unit = select(normal >= power * V(raised_from_), V(2 * unit_), V(unit_));
    const V scale = power * unit * select(is_small, constant<V>(0x1p-100), V(1));
    return at_most(at_least(scale, constant<V>(0x1p-127)), constant<V>(0x1p127));
  }

  BlockRule rule_;
  W max_;
  W limit_;  // the power of two beyond it
  W raised_from_;
  W unit_;
};

// The grids of blocks, and how a number is converted to units of the scale: by division, or by multiplication with the
// reciprocal, which is as exact for a power of two.
template <bool divides>
struct ToUnits {
  template <typename V>
  C10_HOST_DEVICE static V divisor(V divisor) {
    return divides ? divisor : V(1) / divisor;
  }

  template <typename V>
  C10_HOST_DEVICE static V scaled(V x, V divisor) {
    return divides ? x / divisor : x * divisor;
  }
};

template <typename W, bool divides>
struct FormatBlocks : ToUnits<divides> {
  static constexpr bool has_zero_point = false;

  explicit FormatBlocks(const BlockSettings& settings) : ends(settings.ends) {}

  template <typename V>
  C10_HOST_DEVICE FloatGrid<V, Saturates> grid(V scale, V /*zero_point*/) const {
    return {scale, V(ends.least), V(ends.shift), V(ends.step), V(ends.max), V(ends.limit), {}};
  }

  FloatEndsIn<W> ends;
};

template <typename W, bool divides>
struct IntegerBlocks : ToUnits<divides> {
  static constexpr bool has_zero_point = false;

  explicit IntegerBlocks(const BlockSettings& settings) : max(static_cast<W>(settings.ends.max)) {}

  template <typename V>
  C10_HOST_DEVICE Grid<V, Zero> grid(V scale, V /*zero_point*/) const {
    return {scale, {}, V(-max), V(max)};
  }

  W max;
};

template <typename W>
struct AsymmetricBlocks : ToUnits<true> {
  static constexpr bool has_zero_point = true;

  explicit AsymmetricBlocks(const BlockSettings& settings) : limit(static_cast<W>(settings.ends.limit)) {}

  template <typename V>
  C10_HOST_DEVICE Grid<V> grid(V scale, V zero_point) const {
    return {scale, zero_point, V(-limit), V(limit - 1)};
  }

  W limit;
};

// Calls the function with the type of blocks that the settings describe.
template <typename W, typename Function>
auto with_blocks(const BlockSettings& settings, const Function& function) {
  const bool divides = !is_power_of_two(settings.rule);
  if (settings.rule == BlockRule::minmax) {
    return function.template operator()<AsymmetricBlocks<W>>();
  }
  if (settings.is_integer) {
    return divides ? function.template operator()<IntegerBlocks<W, true>>()
                   : function.template operator()<IntegerBlocks<W, false>>();
  }
  return divides ? function.template operator()<FormatBlocks<W, true>>()
                 : function.template operator()<FormatBlocks<W, false>>();
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::element
