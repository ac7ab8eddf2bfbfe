#pragma once

#include "../memory/kernel.h"

namespace ste {

// The number is `low`.
struct BinarySignKernel : Forward<0, Number> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

// On CPUs; ATen has the rest.
struct TernarySignKernel : Forward<0> {
  static const Loops DEFAULT, AVX2, AVX512;
};

// The argument is the threshold, in float, or in double where x is.
struct TernaryThresholdKernel : Forward<1> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

enum class Surrogate { clipped, polynomial, swish, tanh, sigmoid, atan, fast_sigmoid, triangle, gaussian, reste };

// The gradient that comes in, as what is run over, becomes the one to x. The arguments are x, of its shape and dtype,
// and alpha, in float, or in double where x is. A surrogate with a transcendental function is computed in double where
// x is float: the error of an exponent is that of a result times the exponent's size, 80 ulp and more in float.
struct SurrogateKernel : Forward<2, Surrogate> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
