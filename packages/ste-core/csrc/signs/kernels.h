#pragma once

#include "../memory/kernel.h"

namespace ste {

// The number is `low`.
struct BinarySignKernel : Forward<0, Number> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

// For CPUs only; elsewhere ATen's is used.
struct TernarySignKernel : Forward<0> {
  static const Loops DEFAULT, AVX2, AVX512;
};

// The argument is the threshold, in float, or in double if x is.
struct TernaryThresholdKernel : Forward<1> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

enum class Surrogate { clipped, polynomial, swish, tanh, sigmoid, atan, fast_sigmoid, triangle, gaussian, reste };

// Runs over the incoming gradient, and gives the one to x. The arguments are x, of the gradient's shape and dtype, and
// alpha, in float, or in double if x is. A surrogate with a transcendental function is computed in double if x is
// float: an exponent's rounding error is multiplied by the exponent's size in the result, 80 ulp and more in float.
struct SurrogateKernel : Forward<2, Surrogate> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
