#include "elements.h"
#include "kernels.h"

#include "../memory/vectors.h"

#include <limits>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

template <typename T>
class BinarySign {
 public:
  explicit BinarySign(T low) : low_(low), lows_(lane_of(low)) {}

  T operator()(T x) const { return element::binary_sign(x, low_); }

  Lanes<T> operator()(const Lanes<T>& x) const {
    if constexpr (is_16_bit<T>) {
      const auto is_at_least_zero = (order(x) > Pattern(-1)) & (magnitude(x) <= Pattern(Format<T>::infinity));
      return element::select(is_at_least_zero, Pattern(Format<T>::one), lows_);
    } else {
      return element::binary_sign(x, lows_);
    }
  }

 private:
  T low_;
  Lanes<T> lows_;
};

template <typename T>
struct TernarySign {
  T operator()(T x) const { return element::ternary_sign(x); }

  // Of a floating number, its sign and the magnitude of 1, where it is neither zero nor NaN.
  Lanes<T> operator()(const Lanes<T>& x) const {
    if constexpr (is_16_bit<T>) {
      const auto size = magnitude(x);
      const auto has_sign = (size > Pattern(0)) & (size <= Pattern(Format<T>::infinity));
      return ((x & Pattern(std::numeric_limits<int16_t>::min())) | Pattern(Format<T>::one)) & has_sign;
    } else if constexpr (std::is_floating_point_v<T>) {
      return ((x & Lanes<T>(T(-0.0))) | Lanes<T>(T(1))) & (x.abs() > Lanes<T>(T(0)));
    } else {
      return element::ternary_sign(x);
    }
  }
};

template <typename T>
void binary_sign(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Number low) {
  unary<T>(data, strides, size0, size1, BinarySign<T>(in_dtype<T>(low)));
}

template <typename T>
void ternary_sign(char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
  unary<T>(data, strides, size0, size1, TernarySign<T>());
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu

namespace ste {

constinit const BinarySignKernel::Loops BinarySignKernel::CPU_CAPABILITY =
    cpu::loop_table<BinarySignKernel::Loops>(cpu::AllTypes(), []<typename T>() { return &cpu::binary_sign<T>; });

constinit const TernarySignKernel::Loops TernarySignKernel::CPU_CAPABILITY =
    cpu::loop_table<TernarySignKernel::Loops>(cpu::AllTypes(), []<typename T>() { return &cpu::ternary_sign<T>; });

}  // namespace ste
