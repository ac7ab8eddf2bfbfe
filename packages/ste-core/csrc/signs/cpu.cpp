#include "elements.h"
#include "kernels.h"
#include "surrogates.h"

#include "../memory/blocks.h"
#include "../memory/vectors.h"
#include "../memory/wide.h"

#include <algorithm>
#include <limits>
#include <type_traits>

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

  // For a floating-point number: its sign and the magnitude of 1, unless it is zero or NaN.
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

template <typename T>
void ternary_threshold(char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
  with_arguments<T, 1>(data, strides, size0, size1, [](const auto& x, const auto& threshold) {
    return element::ternary_sign(x, threshold);
  });
}

// A surrogate for vectors of W, computed in W, or for floats in double.
template <typename Kind, typename W, bool in_doubles>
class Gradient {
 public:
  using V = Vectorized<W>;

  explicit Gradient(const V& alpha) : of_alpha_(alpha) {}

  V operator()(const V& g, const V& x) const { return of_alpha_(g, x); }

 private:
  typename Kind::template On<V> of_alpha_;
};

template <typename Kind, typename W>
class Gradient<Kind, W, true> {
 public:
  using V = Vectorized<W>;

  explicit Gradient(const V& alpha) : Gradient(in_double(alpha)) {}

  V operator()(const V& g, const V& x) const {
    const auto gs = in_double(g);
    const auto xs = in_double(x);
    return in_float({half(low_, gs[0], xs[0]), half(high_, gs[1], xs[1])});
  }

 private:
  // Where swish crosses 0, its error is a million times that of the exponential.
  using D = Wide<std::is_same_v<Kind, element::Swish> ? Precision::of_double : Precision::of_float>;
  using OfAlpha = typename Kind::template On<D>;

  explicit Gradient(const std::array<Doubles, 2>& alpha) : low_(D(alpha[0])), high_(D(alpha[1])) {}

  static Doubles half(const OfAlpha& of_alpha, const Doubles& g, const Doubles& x) {
    return static_cast<Doubles>(of_alpha(D(g), D(x)));
  }

  OfAlpha low_;
  OfAlpha high_;
};

template <typename T, typename Kind>
void surrogate_rows(char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
  using W = at::opmath_type<T>;
  using Function = Gradient<Kind, W, Kind::is_transcendental && std::is_same_v<T, float>>;
  for (int64_t row = 0; row < size1; ++row) {
    BlockWriter<T> to_x(Output::store, data[0] + row * strides[4], strides[0]);
    BlockReader<T> g(data[1] + row * strides[5], strides[1], size0);
    BlockReader<T> x(data[2] + row * strides[6], strides[2], size0);
    char* const alpha_of_row = data[3] + row * strides[7];
    BlockReader<W> alpha(alpha_of_row, strides[3], size0);
    const Function of_row(Vectorized<W>(at_byte<W>(alpha_of_row, 0)));
    for (int64_t i = 0; i < size0; i += kBlock) {
      const int64_t count = std::min(kBlock, size0 - i);
      const W* const gs = g.block(i, count);
      const W* const xs = x.block(i, count);
      const W* const alphas = alpha.block(i, count);
      W* const to = to_x.block(i);
      const auto for_each = [&](const auto& function_at) {
        for_vectors<W>(0, count, [&](int64_t k, auto size) {
          const auto gradient = function_at(k, size)(load_vector(gs + k, size), load_vector(xs + k, size));
          store<W>(gradient, reinterpret_cast<char*>(to), k, size);
        });
      };
      if (strides[3] == 0) {
        for_each([&](int64_t, auto) -> const Function& { return of_row; });
      } else {
        for_each([&](int64_t k, auto size) { return Function(load_vector(alphas + k, size)); });
      }
      to_x.flush(i, count);
    }
  }
}

template <typename T>
void surrogate(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Surrogate kind) {
  element::with_surrogate(kind, [&]<typename Kind>(Kind) { surrogate_rows<T, Kind>(data, strides, size0, size1); });
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu

namespace ste {

constinit const BinarySignKernel::Loops BinarySignKernel::CPU_CAPABILITY =
    cpu::loop_table<BinarySignKernel::Loops>(cpu::AllTypes(), []<typename T>() { return &cpu::binary_sign<T>; });

constinit const TernarySignKernel::Loops TernarySignKernel::CPU_CAPABILITY =
    cpu::loop_table<TernarySignKernel::Loops>(cpu::AllTypes(), []<typename T>() { return &cpu::ternary_sign<T>; });

constinit const TernaryThresholdKernel::Loops TernaryThresholdKernel::CPU_CAPABILITY =
    cpu::loop_table<TernaryThresholdKernel::Loops>(
        cpu::FloatingTypes(), []<typename T>() { return &cpu::ternary_threshold<T>; });

constinit const SurrogateKernel::Loops SurrogateKernel::CPU_CAPABILITY =
    cpu::loop_table<SurrogateKernel::Loops>(cpu::FloatingTypes(), []<typename T>() { return &cpu::surrogate<T>; });

}  // namespace ste
