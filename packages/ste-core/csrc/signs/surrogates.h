// Surrogate gradients: g * h(x), where h is the derivative of a function that is smooth where the sign jumps.
//
// A surrogate makes a function, `On<V>`, from an alpha, and first computes all that depends only on alpha. V is a
// number (on CUDA devices too), a vector, or an expression of tensors (register/expression.h), so that the kernels and
// what compilers see are the same formulas, in the same order.
#pragma once

#include "kernels.h"

#include "../memory/element.h"

#include <type_traits>

namespace ste::element {
inline namespace CPU_CAPABILITY {

struct Clipped {
  static constexpr bool is_transcendental = false;

  template <typename V>
  struct On {
    C10_HOST_DEVICE explicit On(const V& alpha_) : alpha(alpha_) {}

    C10_HOST_DEVICE V operator()(const V& g, const V& x) const { return keep(absolute(x) <= alpha, g); }

    V alpha;
  };
};

struct Polynomial {
  static constexpr bool is_transcendental = false;

  template <typename V>
  struct On {
    C10_HOST_DEVICE explicit On(const V& alpha_) : alpha(alpha_), peak(constant<V>(2) / alpha_) {}

    C10_HOST_DEVICE V operator()(const V& g, const V& x) const {
      const V size = absolute(x);
      return keep(size <= alpha, g * (peak * (constant<V>(1) - size / alpha)));
    }

    V alpha;
    V peak;
  };
};

// With e = exponential(-t), tanh(t / 2) is (1 - e) / (1 + e), and 1 + cosh(t) is (1 + e)^2 / 2e: neither overflows.
struct Swish {
  static constexpr bool is_transcendental = true;

  template <typename V>
  struct On {
    C10_HOST_DEVICE explicit On(const V& alpha_) : alpha(alpha_), twice(alpha_ * constant<V>(2)) {}

    C10_HOST_DEVICE V operator()(const V& g, const V& x) const {
      const V one = constant<V>(1);
      const V size = absolute(x * alpha);
      const V t = select(size > constant<V>(kEnd), constant<V>(kEnd), size);  // an infinite t times 0 would be NaN
      const V e = exponential(-t);
      const V part = one / (one + e);
      return g * (twice * e * (constant<V>(2) - t * (one - e) * part) * (part * part));
    }

    static constexpr double kEnd = 800;  // for this t, exp(-t) is 0
    V alpha;
    V twice;
  };
};

// 1 - tanh(t)^2 is 4e / (1 + e)^2 with e = exponential(-2t), which does not cancel. max(1 / alpha, 1) * alpha is
// max(alpha, 1).
struct Tanh {
  static constexpr bool is_transcendental = true;

  template <typename V>
  struct On {
    C10_HOST_DEVICE explicit On(const V& alpha_)
        : twice(alpha_ * constant<V>(2)),
          factor(select(alpha_ < constant<V>(1), constant<V>(1), alpha_) * constant<V>(4)) {}

    C10_HOST_DEVICE V operator()(const V& g, const V& x) const {
      const V one = constant<V>(1);
      const V e = exponential(-absolute(x * twice));
      const V below = one + e;
      return g * (factor * e / (below * below));
    }

    V twice;
    V factor;
  };
};

// s(1 - s) is e / (1 + e)^2 with e = exponential(-|t|).
struct Sigmoid {
  static constexpr bool is_transcendental = true;

  template <typename V>
  struct On {
    C10_HOST_DEVICE explicit On(const V& alpha_) : alpha(alpha_) {}

    C10_HOST_DEVICE V operator()(const V& g, const V& x) const {
      const V one = constant<V>(1);
      const V e = exponential(-absolute(x * alpha));
      const V below = one + e;
      return g * (alpha * e / (below * below));
    }

    V alpha;
  };
};

struct Atan {
  static constexpr bool is_transcendental = false;

  template <typename V>
  struct On {
    C10_HOST_DEVICE explicit On(const V& alpha)
        : half(alpha * constant<V>(0.5)), scale(alpha * constant<V>(1.5707963267948966)) {}

    C10_HOST_DEVICE V operator()(const V& g, const V& x) const {
      const V t = x * scale;
      return g * (half / (constant<V>(1) + t * t));
    }

    V half;
    V scale;
  };
};

struct FastSigmoid {
  static constexpr bool is_transcendental = false;

  template <typename V>
  struct On {
    C10_HOST_DEVICE explicit On(const V& alpha_) : alpha(alpha_) {}

    C10_HOST_DEVICE V operator()(const V& g, const V& x) const {
      const V root = constant<V>(1) + absolute(x) * alpha;
      return g * (constant<V>(1) / (root * root));
    }

    V alpha;
  };
};

struct Triangle {
  static constexpr bool is_transcendental = false;

  template <typename V>
  struct On {
    C10_HOST_DEVICE explicit On(const V& alpha_) : alpha(alpha_), slope(alpha_ * alpha_) {}

    C10_HOST_DEVICE V operator()(const V& g, const V& x) const {
      const V height = alpha - absolute(x) * slope;
      return g * select(height < constant<V>(0), constant<V>(0), height);
    }

    V alpha;
    V slope;
  };
};

struct Gaussian {
  static constexpr bool is_transcendental = true;

  template <typename V>
  struct On {
    C10_HOST_DEVICE explicit On(const V& alpha_)
        : alpha(alpha_), peak(alpha_ * constant<V>(0.5641895835477563)) {}  // 1 / sqrt(pi)

    C10_HOST_DEVICE V operator()(const V& g, const V& x) const {
      const V t = x * alpha;
      return g * (peak * exponential(-(t * t)));
    }

    V alpha;
    V peak;
  };
};

// The derivative of sign(x)|x|^(1/o) from 0.1 to 1.5. The derivative grows without bound near 0, so within 0.1 it is
// the slope of the line from there through 0, as in the paper's code. (With pow for the power it takes 1.5 times as
// long, and runs out of registers on CUDA devices.)
struct Reste {
  static constexpr bool is_transcendental = true;

  template <typename V>
  struct On {
    C10_HOST_DEVICE explicit On(const V& alpha_) : alpha(alpha_), exponent((constant<V>(1) - alpha_) / alpha_) {}

    C10_HOST_DEVICE V operator()(const V& g, const V& x) const {
      const V least = constant<V>(0.1);
      const V most = constant<V>(1.5);
      const V size = absolute(x);
      const V within = select(size < least, least, select(size > most, most, size));
      const V height = exponential(exponent * logarithm(within));
      return keep(size <= most, g * select(size <= least, height, height / alpha));
    }

    V alpha;
    V exponent;
  };
};

// Calls `function` with the surrogate.
template <typename Function>
C10_HOST_DEVICE inline auto with_surrogate(Surrogate surrogate, const Function& function) {
  switch (surrogate) {
    case Surrogate::clipped:
      return function(Clipped());
    case Surrogate::polynomial:
      return function(Polynomial());
    case Surrogate::swish:
      return function(Swish());
    case Surrogate::tanh:
      return function(Tanh());
    case Surrogate::sigmoid:
      return function(Sigmoid());
    case Surrogate::atan:
      return function(Atan());
    case Surrogate::fast_sigmoid:
      return function(FastSigmoid());
    case Surrogate::triangle:
      return function(Triangle());
    case Surrogate::gaussian:
      return function(Gaussian());
    default:
      return function(Reste());
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::element
