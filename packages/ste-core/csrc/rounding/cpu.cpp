#include "elements.h"
#include "kernels.h"

#include "../memory/blocks.h"
#include "../memory/vectors.h"

#include <cmath>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

template <typename T, Integer which>
struct ToInteger {
  T operator()(T x) const {
    switch (which) {
      case Integer::nearest:
        return element::round_half_even(x);
      case Integer::above:
        return std::ceil(x);
      case Integer::below:
        return std::floor(x);
      case Integer::toward_zero:
        return std::trunc(x);
    }
  }

  Lanes<T> operator()(const Lanes<T>& x) const {
    switch (which) {
      case Integer::nearest:
        return x.round();
      case Integer::above:
        return x.ceil();
      case Integer::below:
        return x.floor();
      case Integer::toward_zero:
        return x.trunc();
    }
  }
};

template <typename T>
void to_integer(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Integer which) {
  switch (which) {
    case Integer::nearest:
      return unary<T>(data, strides, size0, size1, ToInteger<T, Integer::nearest>());
    case Integer::above:
      return unary<T>(data, strides, size0, size1, ToInteger<T, Integer::above>());
    case Integer::below:
      return unary<T>(data, strides, size0, size1, ToInteger<T, Integer::below>());
    case Integer::toward_zero:
      return unary<T>(data, strides, size0, size1, ToInteger<T, Integer::toward_zero>());
  }
}

template <typename T>
void stochastic_round(char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
  with_arguments<T, 1>(data, strides, size0, size1, [](const auto& x, const auto& random) {
    return element::round_at_random(x, random);
  });
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu

namespace ste {

constinit const ToIntegerKernel::Loops ToIntegerKernel::CPU_CAPABILITY = cpu::loop_table<ToIntegerKernel::Loops>(
    cpu::Types<double, float>(), []<typename T>() { return &cpu::to_integer<T>; });

constinit const StochasticRoundKernel::Loops StochasticRoundKernel::CPU_CAPABILITY =
    cpu::loop_table<StochasticRoundKernel::Loops>(
        cpu::FloatingTypes(), []<typename T>() { return &cpu::stochastic_round<T>; });

}  // namespace ste
